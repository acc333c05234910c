"""Left without being closed: `ClosedByAwaiting` warns, and lets go of its connections in a finalizer.

A finalizer may run in any thread, on any line of code, with the event loop running, standing still or gone. So it
awaits nothing and starts nothing. Imports nothing of the project.
"""

from __future__ import annotations

import warnings
from typing import Self


class ClosedByAwaiting:
    """What holds connections until it is awaited to close.

    An instance that goes without having been closed releases them at once, and a `ResourceWarning` names it. One
    that has opened none goes in silence.
    """

    _is_part = False

    def part(self) -> Self:
        """Itself, as a part of another object: that one releases it, and warns for both.

        Of two objects that go together in a reference cycle, the part may well be finalized first.
        """
        self._is_part = True
        return self

    @property
    def is_connected(self) -> bool:
        """Whether it holds connections of its own. Asked of an instance that was not quite made, too."""
        raise NotImplementedError

    def release(self) -> None:
        """Close without awaiting anything. It cannot be used any more."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self._is_part or not self.is_connected:
            return
        description = repr(self)
        self.release()
        warnings.warn(f"unclosed {description}: use `async with`", ResourceWarning, source=self, stacklevel=2)
