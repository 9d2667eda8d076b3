"""The names of data sets that are no paths."""

NAMED_DATASETS = ("cifar10", "cifar10-jpeg", "digits")
