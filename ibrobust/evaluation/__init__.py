"""Evaluation: from a model and images to a result for every image, accuracies and audit reports."""
