"""Lists the commands of o2o: what each does, examples, and the flags of its short help page.

This module imports nothing heavy, so that `o2o -h` answers at once. The help lines of the flags are the
docstrings of the config classes; here stand only the names and their order.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """The text of one command's help pages.

    Attributes:
        sentence: what the command does, verb first.
        examples: command lines, complete as typed.
        required: flags or positional arguments without which the command fails.
        one_of: flags of which the command needs at least one.
        flags: the other flags on the short page (`-h`), in order; `--help-all` shows every flag.
    """

    sentence: str
    examples: tuple[str, ...]
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


READING = ("--dataset.recipe", "--dataset.download", "--dataset.obs", "--dataset.action", "--dataset.reward",
           "--dataset.control-hz", "--dataset.resample-hz", "--dataset.max-episodes",
           "--dataset.memory-budget")  # fmt: skip

GROUPS = {
    "": Command(
        "Fine-tunes robots from recorded data with world models and uncertainty-aware planning.",
        ("o2o demo", "o2o pretrain --dataset sim-lift --out runs/lift"),
    ),
    "data": Command(
        "Inspects, converts, labels, splits and merges recordings.",
        ("o2o data info sim-lift", "o2o data convert recording.hdf5 door-v0"),
    ),
    "learner": Command(
        "Learns from the episodes of several robots.",
        ("o2o learner serve --checkpoint runs/lift --out runs/fleet --port 18222",),
    ),
    "fleet": Command(
        "Shows a fleet of robots with one learner.",
        ("o2o fleet status runs/fleet",),
    ),
    "robot": Command(
        "Serves a robot over the network.",
        ("o2o robot serve --robot sim --port 8765",),
    ),
}

COMMANDS = {
    "demo": Command(
        "Runs the whole pipeline on a simulated arm in about four minutes.",
        ("o2o demo", "o2o demo --seed 1 --out runs/demo"),
        flags=("--dataset", "--recordings", "--preset", "--updates", "--episodes", "--evaluate-episodes",
               "--seed", "--out", "--device"),
    ),
    "pretrain": Command(
        "Trains a world model, a critic and a policy on recorded data.",
        ("o2o pretrain --dataset sim-lift --out runs/lift",
         "o2o pretrain --dataset recording.hdf5 --preset dreamerv3 --updates 20000"),
        required=("--dataset",),
        flags=("--preset", "--out", "--resume", "--updates", "--robot", "--model", "--dataset.obs",
               "--dataset.action", "--dataset.reward", "--dataset.control-hz", "--dataset.normalize",
               "--dataset.holdout", "--dataset.max-episodes", "--batch-size", "--learning-rate",
               "--discount", "--evaluate-every", "--evaluate-episodes", "--checkpoint-every", "--seed",
               "--device", "--threads"),
    ),
    "finetune": Command(
        "Fine-tunes a pretrained agent on its robot.",
        ("o2o finetune --checkpoint runs/lift --episodes 40 --out runs/lift-online",
         "o2o finetune --checkpoint runs/lift --learner http://127.0.0.1:18222 --name arm-3",
         "o2o finetune --resume --out runs/lift-online"),
        one_of=("--checkpoint", "--learner"),
        flags=("--robot", "--episodes", "--out", "--resume", "--dry-run", "--plan",
               "--planner.uncertainty", "--ood-action", "--safe-start.noise-episodes",
               "--safe-start.planner-episodes", "--limits.speed", "--teleop", "--updates-per-step",
               "--name", "--max-steps", "--action-repeat", "--evaluate-every",
               "--evaluate-episodes", "--record-plans", "--rerun", "--seed", "--device"),
    ),
    "learner serve": Command(
        "Learns from the episodes of several robots, which it gives its weights to.",
        ("o2o learner serve --checkpoint runs/lift --out runs/fleet --port 18222",
         "o2o learner serve --checkpoint runs/lift --out runs/fleet --host 0.0.0.0 --token-file token"),
        required=("--checkpoint", "--out"),
        flags=("--host", "--port", "--token-file", "--cert", "--key", "--episodes", "--updates-per-step",
               "--offline-ratio", "--max-pending-updates", "--max-backlog", "--rollback.window",
               "--checkpoint-every", "--learning-rate", "--dataset", "--seed", "--device", "--threads"),
    ),
    "fleet status": Command(
        "Shows the robots of a fleet, what they have delivered, and how its learner does.",
        ("o2o fleet status runs/fleet",
         "o2o fleet status https://lab.example:18222 --learner-token-file token"),
        required=("FLEET",),
        flags=("--learner-token-file", "--learner-cert"),
    ),
    "evaluate": Command(
        "Measures the success rate and return of a checkpoint in fixed scenes.",
        ("o2o evaluate --checkpoint runs/lift-online --episodes 50",
         "o2o evaluate --checkpoint runs/lift-online --no-plan --film after.mp4",
         "o2o evaluate --checkpoint runs/lift-online --episodes 200 --jobs 2"),
        required=("--checkpoint",),
        flags=("--episodes", "--robot", "--num-robots", "--jobs", "--on", "--first-scene", "--plan",
               "--planner.uncertainty", "--planner.num-samples", "--planner.budget-ms", "--limits.speed",
               "--teleop", "--shadow", "--dry-run", "--max-steps", "--action-repeat", "--out", "--film",
               "--record-plans", "--rerun", "--seed", "--device", "--threads"),
    ),
    "record": Command(
        "Records episodes on a robot as a dataset: by hand, by a policy, a script, or at random.",
        ("o2o record --robot gym --robot.id Pendulum-v1 --operator random --episodes 10 --out my-v0",
         "o2o record --robot ./arm.py --operator keys --episodes 20 --out door-v0",
         "o2o record --resume --episodes 40 --out door-v0"),
        required=("--operator",),
        flags=("--robot", "--episodes", "--out", "--resume", "--checkpoint", "--plan", "--rehearse-resets",
               "--teleop", "--limits.speed", "--max-steps", "--action-repeat", "--seed", "--device"),
    ),
    "replay": Command(
        "Sends the recorded actions of an episode to a robot and says how far it departs from them.",
        ("o2o replay door-v0 --episode 3 --robot ./arm.py --limits.speed 0.5",),
        required=("DATASET",),
        flags=("--robot", "--episode", "--seed", "--teleop", "--limits.speed", "--action-repeat", *READING),
    ),
    "export": Command(
        "Writes an agent as ONNX or torch.export files that run without o2o.",
        ("o2o export runs/lift-online --to policy.onnx",
         "o2o export runs/lift-online --to policy.onnx --planner"),
        required=("RUN", "--to"),
        flags=("--planner", "--overwrite"),
    ),
    "inspect": Command(
        "Writes one page about a run: its plans, uncertainty, values, data and checkpoints.",
        ("o2o inspect runs/lift-online", "o2o inspect runs/lift-online --only plans --out report"),
        required=("RUN",),
        flags=("--only", "--episode", "--plans", "--dataset", "--out", "--device", "--threads"),
    ),
    "runs": Command(
        "Lists the runs in a folder: what, when, data, robot, success before and after.",
        ("o2o runs", "o2o runs runs/demo-sim-lift-20260102-030405"),
        flags=("DIR",),
    ),
    "show": Command(
        "Shows a run: the command line as typed, versions, success and curves.",
        ("o2o show runs/lift-online",),
        required=("RUN",),
    ),
    "reproduce": Command(
        "Runs the command of a run again, with the same settings and seeds.",
        ("o2o reproduce runs/lift-online", "o2o reproduce runs/lift --dry-run"),
        required=("RUN",),
        flags=("--out", "--dry-run"),
    ),
    "push": Command(
        "Publishes a run on the Hugging Face Hub with a card, without code and secrets.",
        ("o2o push runs/lift-online ada/lift --dry-run",
         "o2o push runs/lift-online ada/lift --private --license mit"),
        required=("RUN", "OWNER/NAME"),
        flags=("--private", "--revision", "--license", "--data-license", "--before", "--after", "--dry-run"),
    ),
    "pull": Command(
        "Fetches a run that `o2o push` published, and checks every file of it.",
        ("o2o pull ada/lift", "o2o pull ada/lift --out runs/lift --revision v1"),
        required=("OWNER/NAME",),
        flags=("--out", "--revision", "--dry-run"),
    ),
    "compare": Command(
        "Trains and evaluates several presets on one dataset and robot under one budget.",
        ("o2o compare --dataset sim-lift --presets small tdmpc2 --seeds 3",
         "o2o compare --resume --out runs/compare"),
        required=("--dataset", "--presets"),
        flags=("--robot", "--flags", "--seeds", "--first-seed", "--jobs", "--on", "--ray-address", "--slurm",
               "--updates", "--minutes", "--episodes", "--evaluate-episodes", "--out", "--resume",
               "--device", "--threads"),
    ),
    "study": Command(
        "Measures presets on a suite of tasks, before, during and after fine-tuning.",
        ("o2o study --quick --jobs 2",
         "o2o study --tasks sim-lift ./mine.py --presets small small:critic.expectile=0.7 bc --seeds 3"),
        flags=("--tasks", "--presets", "--flags", "--seeds", "--first-seed", "--jobs", "--on",
               "--ray-address", "--slurm", "--quick", "--robot", "--updates", "--episodes",
               "--evaluate-episodes", "--out", "--resume", "--device", "--threads"),
    ),
    "sweep": Command(
        "Searches the values of a preset's flags that succeed most often.",
        ("o2o sweep --dataset sim-lift --vary planner.uncertainty=0..20 critic.expectile=0.7,0.9",
         "o2o sweep --resume --out runs/sweep"),
        required=("--dataset", "--vary"),
        flags=("--preset", "--flags", "--trials", "--seeds", "--seed", "--prune", "--robot", "--jobs", "--on",
               "--ray-address", "--slurm", "--updates", "--episodes", "--evaluate-episodes", "--out",
               "--resume", "--device", "--threads"),
    ),
    "check": Command(
        "Checks a dataset or a robot for faults before it is trained on.",
        ("o2o check --dataset recording.hdf5 --out report",
         "o2o check --robot sim --steps 20 --move"),
        one_of=("--dataset", "--robot"),
        flags=("--out", "--steps", "--move", "--action-repeat", "--limits.speed", "--dataset.recipe",
               "--dataset.obs", "--dataset.action", "--dataset.reward", "--dataset.control-hz",
               "--dataset.max-episodes"),
    ),
    "data info": Command(
        "Prints what a recording holds: episodes, columns, sizes and rates.",
        ("o2o data info sim-lift",),
        required=("SRC",),
        flags=READING,
    ),
    "data show": Command(
        "Draws episodes as a strip and a film: frames, states, actions and rewards.",
        ("o2o data show door-v0 --episode 3 --out door",
         "o2o data show sim-lift --episode 0 5 --out lift.png"),
        required=("SRC", "--out"),
        flags=("--episode", *READING),
    ),
    "data convert": Command(
        "Converts any recording into a Minari or a LeRobot dataset.",
        ("o2o data convert recording.hdf5 door-v0", "o2o data convert recording.hdf5 door-v0 --jpeg",
         "o2o data convert recording.hdf5 door-lerobot --to lerobot"),
        required=("SRC", "DST"),
        flags=("--to", "--jpeg", "--cameras", "--task", "--drop-copies", *READING),
    ),
    "data relabel": Command(
        "Writes a recording with new rewards, successes and terminations.",
        ("o2o data relabel door-v0 door-v1 --by labels.csv",
         "o2o data relabel door-v0 door-v1 --interactive"),
        required=("SRC", "DST"),
        one_of=("--by", "--interactive", "--success-reward", "--terminate"),
        flags=("--jpeg", *READING),
    ),
    "data split": Command(
        "Splits a recording into two datasets by whole episodes.",
        ("o2o data split door-v0 door-train door-test --share 0.2",),
        required=("SRC", "REST", "PART"),
        flags=("--share", "--seed", *READING),
    ),
    "data merge": Command(
        "Merges several recordings of one robot into one dataset.",
        ("o2o data merge door-v0 door-v1 door-all",),
        required=("SRC SRC ... DST",),
        flags=READING,
    ),
    "robot serve": Command(
        "Serves a robot over the network; a simulated one moves in wall-clock time.",
        ("o2o robot serve --robot sim --port 8765",
         "o2o robot serve --robot sim --show-state --faults.latency-ms 10"),
        flags=("--robot", "--host", "--port", "--token-file", "--cert", "--key", "--show-state",
               "--camera-hz", "--observe-hz", "--watchdog-ms", "--max-delay-ms", "--control-file"),
    ),
    "serve": Command(
        "Serves the policy of a run over the network: an observation in, an action out.",
        ("o2o serve runs/lift-online --port 8766",
         "o2o serve runs/lift-online --host 0.0.0.0 --token-file token --cert arm.pem --key arm.key"),
        required=("RUN",),
        flags=("--acting", "--planner.budget-ms", "--host", "--port", "--token-file", "--cert", "--key",
               "--max-clients", "--idle-s", "--device", "--threads"),
    ),
    "bench": Command(
        "Measures the speed of updates, plans, replay and loading on this machine.",
        ("o2o bench", "o2o bench --checkpoint runs/lift --only state --threads 1"),
        flags=("--only", "--checkpoint", "--threads", "--seconds", "--rounds", "--compile", "--sizes",
               "--methods", "--preset", "--plans", "--budget-ms", "--json", "--baseline",
               "--save-baseline", "--device"),
    ),
    "list": Command(
        "Lists the known robots, datasets, models and presets.",
        ("o2o list", "o2o list presets"),
    ),
}  # fmt: skip

EXIT_CODES = """\
exit codes: 0 done, 1 a run of several failed, 2 wrong flag or checkpoint, 3 data, 4 robot, 5 diverged,
            6 storage, 130 Ctrl-C"""
