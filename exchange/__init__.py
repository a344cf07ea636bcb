"""Features out of a store for other programs, and other programs' features into one."""
