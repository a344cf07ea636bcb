"""What is done to a whole store: inspected, verified, converted, made again."""
