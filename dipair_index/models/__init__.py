"""The DiPair model as the paper describes it: configuration, encoder, truncation, heads."""
