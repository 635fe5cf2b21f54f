"""Distillation in two stages, teachers, and what a training leaves behind."""
