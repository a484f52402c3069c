"""Passes over files that can be interrupted: the state of each finished file is kept.

One file of state per file of data and pass. A state counts only if the pass, the columns and the
data file (its size and time of change) are those it was made for, and its checksum is right;
otherwise the file is read again. States are pickles, and unpickling runs code: the directory must
be your own. A key kept there signs every state, so that a file put there by mistake is not read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
import secrets
from pathlib import Path
from typing import Any

from bayeslmm.errors import DataError
from bayeslmm.sources.base import run_over

__all__ = ["run_over_files"]

_MAGIC = b"bayeslmm state 1\n"
