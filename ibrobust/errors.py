"""The exception for input that cannot be used, with its remedy."""


class IbrobustError(ValueError):
    """An error in the user's input, with its remedy in one sentence.

    Its message is one sentence, or two, that names the offending value and the remedy. The command line
    prints it without a traceback and exits with code 2; any other exception is a defect of ibrobust.
    """
