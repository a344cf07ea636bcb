"""Feature maps to scores: train and evaluate aggregators from a store. Imports nothing by itself."""
