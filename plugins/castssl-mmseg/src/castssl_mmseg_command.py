"""``castssl mmseg``: mmengine's runner on a config, with castssl's modules registered.

A module of its own, so that ``castssl`` need not import mmsegmentation to print its help.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "castssl_mmseg" / "configs"


def main(arguments: Sequence[str]) -> int:
    """Run ``castssl mmseg ARGUMENTS``; the exit code is 0."""
    args = _parser().parse_args(arguments)
    if args.action == "configs":
        print("\n".join(sorted(path.stem for path in CONFIGS.glob("*.py"))))
        return 0
    _run(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("castssl mmseg", description=main.__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("configs", help="list the configs of castssl-mmseg")
    for name, purpose in (("train", "train a model, and validate it"), ("test", "evaluate a checkpoint")):
        action = actions.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
        action.add_argument("config", metavar="CONFIG", help="a file, or a name of `castssl mmseg configs`")
        if name == "test":
            action.add_argument("checkpoint", metavar="CHECKPOINT", help="a .pth file that training wrote")
        else:
            action.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
        action.add_argument(
            "--work-dir", metavar="DIR", help="of logs and checkpoints (default: work_dirs/CONFIG)"
        )
        action.add_argument(
            "--cfg-options",
            nargs="+",
            default=[],
            metavar="KEY=VALUE",
            help="other values for the config, such as model.backbone.weights=runs/moco",
        )
        action.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    return parser


def _run(args: argparse.Namespace) -> None:
    import castssl_mmseg  # registers its modules, and before that makes mmseg importable
    from castssl.errors import ConfigError

    assert castssl_mmseg.__all__
    import torch
    from mmengine.config import Config, DictAction
    from mmengine.runner import Runner

    named = CONFIGS / f"{args.config}.py"
    path = named if os.sep not in args.config and named.is_file() else Path(args.config)
    if not path.is_file():
        raise ConfigError(f"no config {args.config}; give a file, or a name of `castssl mmseg configs`")
    config: Any = Config.fromfile(path)
    parser = argparse.ArgumentParser()
    parser.add_argument("options", nargs="*", action=DictAction)
    if args.cfg_options:
        config.merge_from_dict(parser.parse_args(args.cfg_options).options)
    config.work_dir = args.work_dir or config.get("work_dir") or str(Path("work_dirs") / path.stem)
    config.launcher = args.launcher
    if not torch.cuda.is_available():
        config.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})
    if args.action == "train":
        config.resume = args.resume
        Runner.from_cfg(config).train()
    else:
        config.load_from = args.checkpoint
        Runner.from_cfg(config).test()
