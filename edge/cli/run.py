"""`edge run`: checks the options that only a start needs, then becomes the holder.

Called by edge/cli/main.py. Everything after this line is edge/holder/main.py.
"""

from __future__ import annotations

from edge.errors import OptionError
from edge.options import Options, parse_address


def check_options(options: Options) -> None:
    """Errors: OptionError that names the option."""
    if options.config and options.from_kubernetes:
        raise OptionError("--config: objects come from a folder or from --kubernetes, not from both")
    if not options.config and not options.from_kubernetes:
        raise OptionError("--config: name a folder of objects, or --kubernetes")
    if not options.from_kubernetes and (options.webhook or options.configmap):
        raise OptionError(f"--{'webhook' if options.webhook else 'configmap'}: it needs --kubernetes")
    if not options.http and not options.https:
        raise OptionError("name at least one listener: --http ADDR:PORT or --https ADDR:PORT")
    taken: set[tuple[str, int]] = set()
    for name, texts in (("--http", options.http), ("--https", options.https)):
        for text in texts:
            place = parse_address(text, name)
            if not place[1]:
                raise OptionError(f"{name}: {text!r}: clients need a fixed port, 0 is none")
            if place in taken:
                raise OptionError(f"{name}: {text} is named twice")
            taken.add(place)
    if options.xdp in ("native", "generic") and not options.interface:
        raise OptionError(f"--xdp {options.xdp}: name the interface: --interface IF")


def run_instance(options: Options) -> int:
    """Hold an instance until it stops. Shape: the exit status. Errors: OptionError, HolderError."""
    check_options(options)
    from edge.holder.main import run

    return run(options)
