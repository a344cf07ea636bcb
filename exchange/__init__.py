"""Export features from a store to other programs, and import other programs' features into one."""
