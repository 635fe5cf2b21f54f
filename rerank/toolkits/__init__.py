"""Adapters to other toolkits, one file each; none is imported unless it is asked for."""
