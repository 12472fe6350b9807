# %% [markdown]
# # Features into pandas, scikit-learn and UMAP
#
# Stored features are ordinary arrays, and what is known of each image is a table. pandas and UMAP are
# optional (`pip install pandas umap-learn`); what needs them is left out where they are missing.

# %%
from toptune import load_features
from toptune.extract import extract

MODEL = "resnet10t.toptune_glyphs"
extract("digits", model=MODEL, store="features")
X, rows = load_features("features", "digits", MODEL, layers="last")
print(X.shape, X.dtype, list(rows))

# %% [markdown]
# `X` has a row for each image, and `rows` the same rows: a data frame where pandas is installed, else a
# dictionary of arrays. Both are indexed alike.

# %%
threes = X[rows["label"] == "3"]
print(len(threes), "images of a three; their mean square norm is", (threes**2).sum(axis=1).mean().round(1))

# %%
from importlib.util import find_spec

if find_spec("pandas"):
    import pandas as pd

    norms = pd.DataFrame({"label": rows["label"], "norm": (X**2).sum(axis=1) ** 0.5})
    print(norms.groupby("label").norm.describe())

# %% [markdown]
# Any estimator of scikit-learn takes them:

# %%
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

model = make_pipeline(PCA(50), LinearDiscriminantAnalysis())
print("cross-validated accuracy", cross_val_score(model, X, rows["label"], cv=3).mean().round(4))

# %% [markdown]
# A map of the images in the plane. `toptune inspect` draws one beside the images themselves.

# %%
if find_spec("umap"):
    from umap import UMAP

    points = UMAP(random_state=0).fit_transform(X)
else:
    points = PCA(2).fit_transform(X)
print(points.shape)
