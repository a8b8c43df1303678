"""The one exception that a user can cause and mend."""


class UserError(Exception):
    """Bad input: its text is one clear sentence that names the file or key and says what to do.

    Commands and stages print the sentence, without a traceback, and exit with code 2.
    """
