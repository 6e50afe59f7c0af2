"""Named, runnable configurations: ``python jobs/train.py NAME --catalog ... --out ...``; any setting can be changed.

Each tells where it comes from. Most rebuild, as it was told, what a well-known student project did with Keras (its
layers counted in blocks here, see ``encoder.blocks()``), so that a better recipe can be measured beside it on the same
split: what they reached is on the test split of UTKFace (docs/results.md, "Every recipe"), trained on two cores of an
AMD EPYC without a GPU, by benchmarks/recipes.py. ``IMAGENET1K_*`` are downloaded by torchvision; without that network,
``--weights FILE`` or ``--weights ""`` for random ones.
"""

from __future__ import annotations

from dataclasses import replace

from agescale.config import TrainConfig

DRAWN = TrainConfig(
    encoder="cnn", image_size=64, phases="all:20@1e-3", batch_size=64, augmentation="light", ema_decay=0.99
)
"""A small CNN from scratch, for drawn faces: about a minute on two cores. The one of ``make demo``."""

FAST = TrainConfig(
    encoder="torchvision/mobilenet_v2",
    weights="IMAGENET1K_V1",
    image_size=112,
    phases="head:1@1e-3,all:12@5e-4",
    batch_size=64,
    augmentation="light",
    ema_decay=0.998,
)
"""MobileNetV2 from ImageNet at 112 px, DLDL-v2 over ages 0..100+: a laptop's hour for 15,000 faces.

DLDL-v2: Gao et al., "Age Estimation Using Expectation of Label Distribution Learning" (IJCAI 2018). MAE 4.45, accuracy
80.9 % from 14,759 images; 41 to 50 minutes undisturbed."""

BEST = TrainConfig(
    encoder="torchvision/convnext_tiny",
    weights="IMAGENET1K_V1",
    image_size=192,
    phases="head:1@1e-3,all:40@2e-4",
    batch_size=128,
    warmup_epochs=2,
    augmentation="heavy",
    mixup=0.2,
    dropout=0.3,
    ema_decay=0.9995,
    patience=15,
)
"""ConvNeXt-Tiny from ImageNet at 192 px with heavy augmentation and mixup: for a GPU.

ConvNeXt: Liu et al., "A ConvNet for the 2020s" (CVPR 2022); mixup: Zhang et al. (ICLR 2018). Not measured on a GPU yet:
2 epochs on 600 images, 6 minutes, from random weights, end below the baselines (MAE 16.03)."""

KERAS = TrainConfig(
    task="classification",
    optimizer="adam",
    schedule="constant",
    warmup_epochs=0,
    weight_decay=0.0,
    clip_norm=0.0,
    ema_decay=0.0,
    augmentation="none",
    dropout=0.0,
    batch_size=32,
    patience=1000,
)
"""What Keras does unless told otherwise, and the sources told little."""


RESNET50_CLASSES = replace(
    KERAS,
    encoder="torchvision/resnet50",
    weights="IMAGENET1K_V1",
    image_size=224,
    hidden=(256,),
    dropout=0.3,
    phases="head:5@1e-3,last3:10@1e-5",
    augmentation="light",
)
"""One folder an age class; ResNet-50 from ImageNet with own dense layers on top, augmented, the last stage unfrozen.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016). 400 images, 2 epochs, 4 minutes, random weights:
accuracy 50.4 %, the baseline."""

CNN_128 = replace(KERAS, encoder="cnn", widths=(32, 64, 128, 128), dense=512, image_size=128, phases="all:10@1e-3")
"""Young, middle or old: four convolution blocks with max-pooling, 32 to 128 filters, flattened, dense 512, softmax;
cross-entropy, Adam, batch 32, 10 epochs, the best epoch kept. 4,000 images, 5 epochs, 12 minutes: accuracy 68.4 %."""

RESNET50_TWO_PHASE = replace(
    KERAS,
    encoder="torchvision/resnet50",
    weights="IMAGENET1K_V1",
    image_size=128,
    dropout=0.2,
    phases="head:10@1e-4,last1:10@1e-5",
)
"""ResNet-50 frozen, average pooling, dropout 0.2, a dense layer at 1e-4; then its last 10 layers, which are one
bottleneck block, at 1e-5. 600 images, 3 epochs, 2 minutes, random weights: accuracy 50.5 %, the baseline."""

MOBILENET_TWO_PHASE = replace(
    KERAS,
    encoder="torchvision/mobilenet_v2",
    weights="IMAGENET1K_V1",
    image_size=128,
    dropout=0.2,
    phases="head:10@1e-4,last2:10@1e-5",
)
"""The same with MobileNetV2, whose last 10 layers are the last convolution and most of the last inverted residual.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018). 4,000 images, 6 epochs, 11
minutes: accuracy 69.1 %."""

ATTENTION_CNN_160 = replace(
    KERAS,
    encoder="attention_cnn",
    image_size=160,
    hidden=(256,),
    dropout=0.5,
    phases="all:15@1e-3",
    schedule="exponential",
)
"""Four blocks of convolution, batch norm, max-pooling and spatial dropout, channel attention from average- and
max-pooled features, a dense layer, dropout, softmax; Adam, its rate decaying exponentially from 1e-3 to 1e-6, 15
epochs. Its source calls it multi-task and shows one; ``--auxiliary gender`` makes it so. 1,500 images, 3 epochs, 3
minutes: accuracy 55.2 %."""

SMALL_CNN = replace(
    KERAS,
    encoder="cnn",
    widths=(16, 32, 64),
    dense=128,
    image_size=96,
    dropout=0.5,
    phases="all:15@1e-3",
    age_groups="life-stages",
)
"""Child, teenager, adult or senior by a small CNN; the source's five reach 81 % at most on its own data. 8,000 images,
6 epochs, 5 minutes: accuracy 85.8 % in these four groups."""

SKIP_CNN_REGRESSION = replace(
    KERAS,
    encoder="skip_cnn",
    task="regression",
    loss="l1",
    image_size=128,
    hidden=(128,),
    dropout=0.2,
    phases="all:15@1e-3",
)
"""The age itself by a CNN with skip connections, the best of the same source's six regression networks. 600 images, 3
epochs, 3 minutes: MAE 14.22."""

AUTOENCODER = replace(KERAS, encoder="conv_autoencoder", task="reconstruction", image_size=128, phases="all:10@1e-3")
"""A convolutional autoencoder learns to draw faces again, from their pictures alone (no labels are needed).
2,000 images, 2 epochs, 3 minutes: squared error of normalised pixels 0.093 on validation."""

AUTOENCODER_FINETUNE = replace(
    KERAS,
    encoder="conv_autoencoder",
    weights="runs/autoencoder/best",
    image_size=128,
    hidden=(256, 128),
    dropout=0.3,
    phases="head:5@1e-3,all:10@1e-4",
)
"""Its encoder, from where ``autoencoder`` was told to leave it, reused with a deeper head; frozen first, then
all. The best home-made network of its source. 2,000 images, 4 epochs, 2 minutes: accuracy 65.3 %."""

RESNET50_REGRESSION_224 = replace(
    KERAS,
    encoder="torchvision/resnet50",
    weights="IMAGENET1K_V1",
    task="regression",
    loss="l1",
    image_size=224,
    hidden=(256,),
    dropout=0.3,
    phases="all:20@1e-4",
)
"""ResNet-50 without its top, average pooling, dense ReLU, dropout, one linear output; mean absolute error, Adam, 20
epochs. Its source reaches a validation MAE of 7.65 years on APPA-REAL. 300 images, 2 epochs, 4 minutes, random
weights: MAE 15.84, no better than the baseline."""

VGG16_25Y = replace(
    KERAS,
    encoder="torchvision/vgg16",
    weights="IMAGENET1K_V1",
    image_size=128,
    age_groups="25-years",
    hidden=(256, 128),
    dropout=0.5,
    head_weight_decay=1e-2,
    phases="head:30@1e-3",
    patience=5,
)
"""UTKFace in five groups of 25 years: VGG-16 frozen, dense layers with dropout and L2 on top; cross-entropy, Adam,
early stopping, the best epoch kept.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015). 600 images, 2
epochs, 3 minutes: accuracy 63.6 %."""

RECIPES: dict[str, TrainConfig] = {
    "drawn": DRAWN,
    "fast": FAST,
    "best": BEST,
    "resnet50-classes": RESNET50_CLASSES,
    "cnn-128": CNN_128,
    "resnet50-two-phase": RESNET50_TWO_PHASE,
    "mobilenet-two-phase": MOBILENET_TWO_PHASE,
    "attention-cnn-160": ATTENTION_CNN_160,
    "small-cnn": SMALL_CNN,
    "skip-cnn-regression": SKIP_CNN_REGRESSION,
    "autoencoder": AUTOENCODER,
    "autoencoder-finetune": AUTOENCODER_FINETUNE,
    "resnet50-regression-224": RESNET50_REGRESSION_224,
    "vgg16-25y": VGG16_25Y,
}


def describe() -> str:
    """The recipes for ``--help``: names, and what each changes."""
    default = TrainConfig()
    lines = []
    for name, recipe in RECIPES.items():
        changes = [f"{key} {value}" for key, value in vars(recipe).items() if value != getattr(default, key)]
        lines.append(f"{name}: {', '.join(changes)}")
    return "Recipes, to be named first: " + "; ".join(lines)


def take_name(arguments: list[str]) -> str | None:
    """Removes a recipe's name from the front of a command line (the program's name stays) and returns it."""
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        if arguments[1] not in RECIPES:
            raise ValueError(f"no recipe is called {arguments[1]!r}; there are {', '.join(RECIPES)}")
        return arguments.pop(1)
    return None
