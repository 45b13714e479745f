"""Makes `bodies` importable: the tests run in importlib mode, where folders are not on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
