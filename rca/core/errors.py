"""The exception for what a user can cause and fix."""


class UserError(Exception):
    """Bad input, told in one clear sentence that names the file or key and says what to do.

    Commands and stages print the sentence, without a traceback, and exit with code 2.
    """
