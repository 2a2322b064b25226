"""What is asked, how it is used, and how much it costs at most: endpoints, strict readers, the price book, estimates."""
