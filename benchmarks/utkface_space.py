"""Five architectures, three tasks, two learning rates each: the space of the sweep on UTKFace, see docs/results.md."""

TASKS = ["distribution", "ordinal", "regression"]

SPACE = [
    {
        "encoder": ["torchvision/mobilenet_v2", "torchvision/squeezenet1_0"],
        "task": TASKS,
        "image_size": [80],
        "batch_size": [32],
        "phases": ["head:1@1e-3,all:{epochs}@{lr}"],
        "lr": [5e-4, 1.5e-3],
    },
    {
        "encoder": ["cnn", "skip_cnn", "attention_cnn"],
        "task": TASKS,
        "image_size": [64],
        "batch_size": [32],
        "phases": ["all:{epochs}@{lr}"],
        "lr": [1e-3, 3e-3],
    },
]
