# %% [markdown]
# # From images to a classifier
#
# A folder with a sub-folder for each class becomes a classifier in two calls. The images of this notebook
# are scikit-learn's handwritten digits, written as files, and the backbone is embedded in toptune. For
# photographs take another one, such as `vit_small_patch16_dinov3.lvd1689m`; the rest stays as it is.

# %%
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for number, (pixels, label) in enumerate(zip(digits.images[:300], digits.target[:300], strict=True)):
    folder = Path("my-images") / f"digit-{label}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 255 / 16).astype("uint8")).save(folder / f"{number:03}.png")

# %% [markdown]
# The backbone runs once over the images. The same call again finds the features stored, and computes
# nothing.

# %%
from toptune.extract import extract

MODEL = "resnet10t.toptune_glyphs"
extract("my-images", model=MODEL, store="features")

# %% [markdown]
# A head is trained on the stored features: here ridge regression, whose penalty is chosen by
# cross-validation on the training images. A fifth of the images is held out, and the figures are of these.

# %%
from toptune.train import train

run = train("features", dataset="my-images", model=MODEL, head="ridge", out="run-my-images")
print(f"accuracy {run.metrics['accuracy']:.3f}, log-loss {run.metrics['log_loss']:.3f}")

# %% [markdown]
# The RUN folder is all that a classifier needs. It takes files, folders, bytes, and lists of them.

# %%
from toptune import Classifier

classifier = Classifier.load("run-my-images")
for prediction in classifier.predict("my-images/digit-3")[:3]:
    print(Path(prediction.path).name, prediction.label, f"{prediction.confidence:.3f}")
