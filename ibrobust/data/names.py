"""The names of the known data sets."""

NAMED_DATASETS = ("cifar10", "cifar10-jpeg", "digits")
