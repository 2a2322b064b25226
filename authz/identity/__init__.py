"""Who is asking: the directory, virtual keys, and how a credential becomes a principal."""
