"""Named, runnable configurations: ``python jobs/train.py NAME --catalog ... --out ...``; any setting can be changed.

Each says what it is for and where it comes from. Most rebuild, as far as that is told, what student projects published
with Keras (their layers counted in blocks here, see ``encoder.blocks()``), so that a better recipe can be measured
beside it on the same split: what they reached is on the test split of UTKFace (docs/results.md, "Every recipe"),
trained on two cores of an AMD EPYC without a GPU, by benchmarks/recipes.py. ``IMAGENET1K_*`` are downloaded by
torchvision; without that network, ``--weights FILE`` or ``--weights ""`` for random ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agescale.config import TrainConfig
from agescale.runtime import terminal


@dataclass(frozen=True)
class Recipe:
    """``source`` says where it comes from, where it deviates from that, and what was measured. ``minutes`` are those of
    the whole recipe where it was run as it stands; on what, ``source`` says."""

    config: TrainConfig
    purpose: str
    source: str
    minutes: str = ""


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

RESNET50 = replace(KERAS, encoder="torchvision/resnet50", weights="IMAGENET1K_V1")
MOBILENET_V2 = replace(KERAS, encoder="torchvision/mobilenet_v2", weights="IMAGENET1K_V1")

RECIPES: dict[str, Recipe] = {
    "drawn": Recipe(
        TrainConfig(
            encoder="cnn", image_size=64, phases="all:20@1e-3", batch_size=64, augmentation="light", ema_decay=0.99
        ),
        "try things out on drawn faces",
        "Our own; the one of ``make demo``, which takes about a minute to train it on two cores.",
        "1",
    ),
    "fast": Recipe(
        TrainConfig(
            encoder="torchvision/mobilenet_v2",
            weights="IMAGENET1K_V1",
            image_size=112,
            phases="head:1@1e-3,all:12@5e-4",
            batch_size=64,
            augmentation="light",
            ema_decay=0.998,
        ),
        "real faces on a laptop",
        """MobileNetV2 from ImageNet, DLDL-v2 over ages 0..100+ (Gao et al., "Age Estimation Using Expectation of Label
        Distribution Learning", IJCAI 2018). MAE 4.45, accuracy 80.9 % from 14,759 images, in 41 to 50 minutes of two
        undisturbed cores.""",
        "41-50",
    ),
    "face": Recipe(
        TrainConfig(
            encoder="timm/mobilenetv1_100?pad_type=same",
            weights="included",
            num_features=256,
            image_size=224,
            faces="largest",
            phases="last1:15@1e-3",
            batch_size=64,
            augmentation="flip",
            ema_decay=0.998,
        ),
        "your photos, from a model of faces",
        """The two dense layers of the checkpoint that comes with agescale (FaceRes, a MobileNet 1.0 that was trained on
        faces), on the largest face of each photo; what is below them makes its features once. From FaceRes itself, on
        18,872 faces of UTKFace and APPA-REAL: MAE 4.27 on UTKFace's test chips, 14 minutes on two busy cores.""",
        "14",
    ),
    "best": Recipe(
        TrainConfig(
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
        ),
        "real faces on a GPU",
        """ConvNeXt-Tiny from ImageNet with heavy augmentation and mixup (Liu et al., "A ConvNet for the 2020s", CVPR
        2022; Zhang et al., "mixup", ICLR 2018). Not measured on a GPU yet: 2 epochs on 600 images, 6 minutes, from
        random weights, end below the baselines (MAE 16.03).""",
    ),
    "resnet50-classes": Recipe(
        replace(
            RESNET50,
            image_size=224,
            head_sizes=(256,),
            dropout=0.3,
            phases="head:5@1e-3,last3:10@1e-5",
            augmentation="light",
        ),
        "one folder an age class, augmented",
        """ResNet-50 (He et al., CVPR 2016) from ImageNet with own dense layers on top, the last stage unfrozen. The
        source tells neither image size, layers, rates nor epochs: 224 px is the network's own, the rest ours. 400
        images, 2 epochs, 4 minutes, random weights: accuracy 50.4 %, the baseline.""",
    ),
    "cnn-128": Recipe(
        replace(
            KERAS, encoder="cnn", widths=(32, 64, 128, 128), num_features=512, image_size=128, phases="all:10@1e-3"
        ),
        "young, middle or old, from scratch",
        """Four convolution blocks with max-pooling, 32 to 128 filters, flattened, dense 512, softmax; cross-entropy,
        Adam, batch 32, 10 epochs, the best epoch kept, all as told; the filters between 32 and 128 are ours. 4,000
        images, 5 epochs, 12 minutes: accuracy 68.4 %.""",
    ),
    "resnet50-two-phase": Recipe(
        replace(RESNET50, image_size=128, dropout=0.2, phases="head:10@1e-4,last1:10@1e-5"),
        "young, middle or old, fine-tuned",
        """ResNet-50 frozen, average pooling, dropout 0.2, a dense layer at 1e-4; then its last 10 layers, which are one
        bottleneck block, at 1e-5; the numbers of epochs are ours. 600 images, 3 epochs, 2 minutes, random weights:
        accuracy 50.5 %, the baseline.""",
    ),
    "mobilenet-two-phase": Recipe(
        replace(MOBILENET_V2, image_size=128, dropout=0.2, phases="head:10@1e-4,last2:10@1e-5"),
        "the same, on a laptop",
        """The same with MobileNetV2 (Sandler et al., CVPR 2018), whose last 10 layers are the last convolution and most
        of the last inverted residual. 4,000 images, 6 epochs, 11 minutes: accuracy 69.1 %.""",
    ),
    "attention-cnn-160": Recipe(
        replace(
            KERAS,
            encoder="attention_cnn",
            image_size=160,
            head_sizes=(256,),
            dropout=0.5,
            phases="all:15@1e-3",
            schedule="exponential",
        ),
        "young, middle or old, with attention",
        """Four blocks of convolution, batch norm, max-pooling and spatial dropout, channel attention from average- and
        max-pooled features, a dense layer, dropout, softmax; Adam, its rate decaying exponentially from 1e-3, 15
        epochs. Where the rate ends (1e-6), the size of the layer and both dropouts are ours. The source calls it
        multi-task and shows one task; ``--auxiliary gender`` makes it so. 1,500 images, 3 epochs, 3 minutes: accuracy
        55.2 %.""",
    ),
    "small-cnn": Recipe(
        replace(
            KERAS,
            encoder="cnn",
            widths=(16, 32, 64),
            num_features=128,
            image_size=96,
            dropout=0.5,
            phases="all:15@1e-3",
            age_groups="life-stages",
        ),
        "child, teenager, adult or senior",
        """The source's five classification networks reach 81 % at most on its own data; it tells no sizes, so they are
        ours. 8,000 images, 6 epochs, 5 minutes: accuracy 85.8 % in these four groups.""",
    ),
    "skip-cnn-regression": Recipe(
        replace(
            KERAS,
            encoder="skip_cnn",
            task="regression",
            loss="l1",
            image_size=128,
            head_sizes=(128,),
            dropout=0.2,
            phases="all:15@1e-3",
        ),
        "the exact age, from scratch",
        """A CNN with skip connections, the best of the same source's six regression networks; sizes are ours. 600
        images, 3 epochs, 3 minutes: MAE 14.22.""",
    ),
    "autoencoder": Recipe(
        replace(KERAS, encoder="conv_autoencoder", task="reconstruction", image_size=128, phases="all:10@1e-3"),
        "pre-training without labels",
        """The same source's convolutional autoencoder, which learns to draw faces again; sizes are ours. 2,000 images,
        2 epochs, 3 minutes: squared error of normalised pixels 0.093 on validation.""",
    ),
    "autoencoder-finetune": Recipe(
        replace(
            KERAS,
            encoder="conv_autoencoder",
            weights="runs/autoencoder/best",
            image_size=128,
            head_sizes=(256, 128),
            dropout=0.3,
            phases="head:5@1e-3,all:10@1e-4",
        ),
        "what autoencoder learned, with labels",
        """Its encoder, from where ``autoencoder`` was told to leave it, reused with a deeper head; frozen first, then
        all: the best home-made network of the source. The source has four life stages, this the catalog's groups. 2,000
        images, 4 epochs, 2 minutes: accuracy 65.3 %.""",
    ),
    "mobilenet-life-stages": Recipe(
        replace(
            MOBILENET_V2,
            image_size=128,
            dropout=0.2,
            phases="head:5@1e-3,all:10@1e-4",
            age_groups="life-stages",
        ),
        "child, teenager, adult or senior",
        """MobileNet from ImageNet, fine-tuned: the best network of the same source over all, which tells neither image
        size, rates nor epochs; they are ours, and so is version 2. Not measured.""",
    ),
    "resnet50-regression-224": Recipe(
        replace(
            RESNET50,
            task="regression",
            loss="l1",
            image_size=224,
            head_sizes=(256,),
            dropout=0.3,
            phases="all:20@1e-4",
        ),
        "the exact age, fine-tuned",
        """ResNet-50 without its top, average pooling, dense ReLU, dropout, one linear output; mean absolute error,
        Adam, 20 epochs at 224 px, as told; rate, size of the layer and dropout are ours. Its source reaches a
        validation MAE of 7.65 years on APPA-REAL. 300 images, 2 epochs, 4 minutes, random weights: MAE 15.84, no better
        than the baseline.""",
    ),
    "vgg16-25y": Recipe(
        replace(
            KERAS,
            encoder="torchvision/vgg16",
            weights="IMAGENET1K_V1",
            image_size=224,
            age_groups="25-years",
            head_sizes=(256, 128),
            dropout=0.5,
            head_weight_decay=1e-2,
            phases="head:30@1e-3",
            patience=5,
        ),
        "UTKFace in five groups of 25 years",
        """VGG-16 (Simonyan and Zisserman, ICLR 2015) frozen, dense layers with dropout and L2 on top; cross-entropy,
        Adam, early stopping, the best epoch kept. 224 px is the network's own size; layers, dropout and L2 are ours,
        and the split is the catalog's (theirs 90/10). Measured at 128 px only, see docs/results.md.""",
    ),
}


def print_recipes() -> None:
    """The recipes as a table, for ``--help``; minutes where the whole recipe was measured."""
    print("\nRecipes, to be named first, such as: python jobs/train.py fast --catalog runs/catalog")
    rows = [
        [
            name,
            recipe.config.encoder.removeprefix("torchvision/"),
            f"{recipe.config.image_size}",
            recipe.minutes or "-",
            recipe.purpose,
        ]
        for name, recipe in RECIPES.items()
    ]
    terminal.print_table(["recipe", "encoder", "pixels", "minutes", "for"], rows)


def take_name(arguments: list[str]) -> str | None:
    """Removes a recipe's name from the front of a command line (the program's name stays) and returns it."""
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        if arguments[1] not in RECIPES:
            raise ValueError(f"no recipe is called {arguments[1]!r}; there are {', '.join(RECIPES)}")
        return arguments.pop(1)
    return None
