#!/usr/bin/env python3
"""Split a text into words as a shell does, without expanding or running anything: split_words.py TEXT.

Prints the words quoted for a shell, so that blanks, line breaks and operators in them stay what they are.
"""

import shlex
import sys

try:
    print(shlex.join(shlex.split(sys.argv[1])))
except ValueError as problem:  # a quote that is not closed
    sys.exit(str(problem))
