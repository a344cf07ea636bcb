"""Live prediction: a run's prediction after each clip and its cost so far; it stops when it is sure.

python examples/live_prediction.py runs/kinetics-fast-gru-1-7-n32-s0 new.mp4
"""

from __future__ import annotations

import argparse

from faster.predict import ClipAnswer, Predictor


def main() -> None:
    """Print a line a clip, and one a video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", help="a run folder of faster train-agg, or a cell of a sweep")
    parser.add_argument("videos", nargs="+", help="video files")
    parser.add_argument("--exit", type=float, default=0.95, help="leave a video when a class is so probable")
    args = parser.parse_args()

    predictor = Predictor(args.run)  # loads the run, and the backbones that its pattern names
    for answer in predictor.answers(args.videos, exit_probability=args.exit):
        if isinstance(answer, ClipAnswer):
            name, probability = answer.top(1)[0]
            print(f"{answer.time_seconds:7.2f} s  {answer.model:16} {name} {probability:.0%}")
        elif answer.reason:
            print(f"{answer.path}: failed: {answer.reason}")
        else:
            name, probability = answer.top(1)[0]
            saved = f"{answer.saved_gflops:.3g} of {answer.whole_gflops:.3g} GFLOPs saved"
            print(f"{answer.path}: {name} {probability:.0%}, {saved}")


if __name__ == "__main__":  # the decoder is a process that imports this file again
    main()
