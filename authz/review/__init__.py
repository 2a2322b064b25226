"""What the security team runs on a bundle. It asks the PDP that serves, so what is reviewed is what will be enforced."""
