"""Distillation in two stages, the training of teachers, and the records of a training run."""
