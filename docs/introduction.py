# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A variational autoencoder before your eyes
#
# A variational autoencoder (VAE) learns two networks: an *encoder* that turns an image into a distribution over a
# small latent space, and a *decoder* that turns a point of that space back into an image. This notebook builds a VAE
# with a latent space of two dimensions, so that you can see the whole of it, and trains it in a few seconds on the
# 8 x 8 digits that come with scikit-learn. Nothing is downloaded and no GPU is needed.
#
# To run it, type `make setup` in the project's folder, then open this file with the Python of `.venv` (in VS Code, or
# with `.venv/bin/python -m pip install jupyterlab` and `.venv/bin/jupyter lab docs/introduction.ipynb`). To read it,
# no kernel is needed: every picture is stored with it.
#
# ![Encoder, cloud, draw, decoder, and the two terms of the loss](pictures/vae.svg)
#
# One training step has four parts, and the sections below follow them:
#
# 1. **encode** an image as a distribution over the latent space;
# 2. **sample** a point from that distribution;
# 3. **decode** the point into an image;
# 4. **backpropagate**: compare the result with the image, and improve both networks.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from ipywidgets import FloatSlider, interact
from pyro.infer import TraceMeanField_ELBO
from torch.nn import functional as F

from vae.model import make_model
from vae.settings import load_settings
from vae.sources.datasets import read
from vae.sources.mirrors import fetch

PROJECT = next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "params.yaml").exists())

# %% [markdown]
# ## Real digits
#
# 1437 images to train on and 360 to look at. A gray value is read as the probability that its pixel is 1, and each
# look at an image draws its pixels afresh, as the pipeline does with MNIST.

# %%
torch.manual_seed(0)
with tempfile.TemporaryDirectory() as folder:
    fetch("digits", [], folder)
    raw = read("digits", folder)
train_images, train_labels, test_images, test_labels = (
    torch.from_numpy(array) for split in ("train", "test") for array in raw[split]
)
train_images, test_images = train_images / 255, test_images / 255


def show(images, titles=None):
    """Draw images side by side."""
    _, axes = plt.subplots(1, len(images), figsize=(len(images), 1.3), squeeze=False)
    for axis, image, title in zip(axes.flat, images, titles or [""] * len(images), strict=True):
        axis.imshow(image.detach().reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    plt.show()


show([*test_images[:5], *torch.bernoulli(test_images[:5])], ["gray"] * 5 + ["drawn"] * 5)

# %% [markdown]
# ## 1. Encode: an image as a distribution
#
# The model is this project's, with smaller networks than in `params.yaml`. For each image the encoder returns a mean
# and a standard deviation for each of the two latent dimensions: a small cloud, not a point. This encoder has not
# learned anything yet, so its output is meaningless.

# %%
settings = load_settings(PROJECT / "params.yaml").model.model_copy(
    update={"latent_dim": 2, "prior": "standard_normal", "encoder_widths": [128, 128], "decoder_widths": [128, 128]}
)


def new_model():
    """A model with random weights, the same ones at each call."""
    torch.manual_seed(1)
    return make_model(settings, tuple(train_images.shape[1:]), classes=10)


model = new_model()
digit = torch.bernoulli(test_images[:1])
posterior = model.encode(digit)
print("mean", posterior.mean.detach())
print("standard deviation", posterior.stddev.detach())

# %% [markdown]
# ## 2. Sample
#
# A draw is mean + standard deviation x noise. The noise comes from outside, so a gradient can flow through the draw
# into mean and standard deviation. This is the *reparameterization trick*.

# %%
z = posterior.rsample()
print("z", z.detach())

# %% [markdown]
# ## 3. Decode
#
# The decoder returns a probability for each pixel. Before training they are all close to one half.

# %%
show([digit, model.decode(z)], ["seen", "decoded"])

# %% [markdown]
# ## 4. Backpropagate
#
# The loss is minus the *evidence lower bound* (ELBO), a lower bound on the log-probability of the image, in nats. It
# is a sum of two terms:
#
# - the **distortion**, minus the log-probability of the image's pixels under the decoder: how badly the draw describes
#   the image;
# - the **rate**, the Kullback-Leibler divergence of the cloud from the prior $N(0, I)$: how much the draw reveals about
#   the image.
#
# The four steps, written out:


# %%
def training_step(model, optimizer, images, beta=1.0):
    """Improve the model on a mini-batch, and return its mean distortion and rate in nats."""
    posterior = model.encode(images)  # 1. encode as a distribution
    z = posterior.rsample()  # 2. sample
    decoded = model.decode(z)  # 3. decode
    distortion = F.binary_cross_entropy(decoded, images, reduction="sum") / len(images)
    mean, deviation = posterior.mean, posterior.stddev
    rate = (0.5 * (mean**2 + deviation**2 - 1) - deviation.log()).sum() / len(images)
    optimizer.zero_grad()
    (distortion + beta * rate).backward()  # 4. backpropagate
    optimizer.step()
    return torch.stack([distortion, rate]).detach()


batch = torch.bernoulli(train_images[:128])
torch.manual_seed(2)
by_pyro = TraceMeanField_ELBO().loss(model.model, model.guide, batch) / len(batch)
torch.manual_seed(2)
distortion, rate = training_step(model, torch.optim.Adam(model.parameters()), batch)
print(f"by hand: {distortion:.3f} + {rate:.3f} = {distortion + rate:.3f} nats per image")
print(f"by Pyro: {by_pyro:.3f}")

# %% [markdown]
# The second number is what [Pyro](https://pyro.ai) computes from the same draw. It needs only the model's two programs,
# `model.model` and `model.guide`. `vae/training` takes the same step, and adds what a long run needs: a schedule,
# checkpoints, a GPU that never waits.
#
# ## Watch it learn
#
# On the left the two terms, on the right the latent plane: each point is the mean of one training image's cloud,
# colored by its digit. The model never sees the labels. The picture is redrawn every ten epochs.


# %%
def draw_progress(figure, history, model):
    """Draw the terms by epoch and the latent plane."""
    figure.clear()
    curves, plane = figure.subplots(1, 2)
    terms = torch.stack(history)
    curves.plot(terms[:, 0], label="distortion")
    curves.plot(terms[:, 1], label="rate")
    curves.plot(terms.sum(dim=1), label="their sum, minus the ELBO", color="black")
    curves.set(xlabel="epoch", ylabel="nats per image", ylim=(0, 35))
    curves.legend()
    means = model.encode(train_images).mean.detach()
    points = plane.scatter(*means.T, c=train_labels, cmap="tab10", s=4)
    plane.set(xlabel="$z_1$", ylabel="$z_2$", xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    figure.colorbar(points, ax=plane, ticks=range(10), label="digit")


def train(epochs, beta=1.0, watch=False):
    """Train a new model, and return it with each epoch's mean distortion and rate."""
    model = new_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    history = []
    if watch:
        figure = plt.figure(figsize=(9, 3.6), layout="constrained", dpi=80)
        screen = display(figure, display_id=True)
    for epoch in range(1, epochs + 1):
        batches = torch.randperm(len(train_images)).split(128)
        totals = sum(
            len(rows) * training_step(model, optimizer, torch.bernoulli(train_images[rows]), beta) for rows in batches
        )
        history.append(totals / len(train_images))
        if watch and epoch % 10 == 0:
            draw_progress(figure, history, model)
            screen.update(figure)
    if watch:
        plt.close(figure)
    return model, history


model, history = train(epochs=150, watch=True)

# %% [markdown]
# At first the distortion falls while the rate rises: to describe an image better, the draw has to say more about it.
# The prior holds the clouds together in one place, and images of one digit gather.
#
# The same digit as before, encoded again, sampled and decoded. The cloud is now small, so its draws decode to similar
# images:

# %%
posterior = model.encode(digit)
print("mean", posterior.mean.detach())
print("standard deviation", posterior.stddev.detach())
show([test_images[0], digit, *(model.decode(posterior.sample()) for _ in range(6))], ["gray", "seen", *["decoded"] * 6])

# %% [markdown]
# ## Move through the latent plane
#
# Each point of the plane, decoded:

# %% tags=["manifold"]
steps = torch.linspace(-2.5, 2.5, 15)
grid = torch.cartesian_prod(steps.flip(0), steps).flip(1)  # z_2 falls from row to row, z_1 rises from column to column
digits = F.pad(model.decode(grid).detach().reshape(15, 15, 8, 8), (1, 1, 1, 1))
figure, axis = plt.subplots(figsize=(5, 5))
axis.imshow(
    digits.permute(0, 2, 1, 3).reshape(150, 150), cmap="gray_r", extent=(-2.68, 2.68, -2.68, 2.68), interpolation="none"
)
axis.set(xlabel="$z_1$", ylabel="$z_2$")
plt.show()

# %% [markdown]
# Neighbors in the plane look alike, and on the way from one digit to another nearly every point decodes to something
# digit-like: that is what the rate buys. With a running kernel, move the point yourself (without one, the picture
# above shows every place that the sliders reach):


# %%
def decode_at(z_1, z_2):
    """Decode and show one point."""
    show(model.decode(torch.tensor([[z_1, z_2]])), [f"({z_1:.1f}, {z_2:.1f})"])


sliders = {name: FloatSlider(value=0, min=-2.5, max=2.5, step=0.1, description=name) for name in ("z_1", "z_2")}
_ = interact(decode_at, **sliders)

# %% [markdown]
# ## The two terms trade
#
# Multiply the rate by a factor $\beta$ (a $\beta$-VAE) and the balance shifts. A small $\beta$ lets the draw say much:
# good reconstructions, clouds far apart. A large $\beta$ makes information expensive: less of it, and worse
# reconstructions. Of the three only $\beta = 1$ minimizes the sum, which bounds the log-probability.

# %%
figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
print("beta   rate + distortion =   sum")
for beta in (0.2, 1.0, 2.0):
    _, terms = train(epochs=60, beta=beta)
    distortion, rate = torch.stack(terms[-10:]).mean(dim=0).tolist()
    print(f"{beta:4.1f}  {rate:5.2f} + {distortion:10.2f} = {rate + distortion:5.2f}")
    axis.plot(rate, distortion, "o")
    axis.annotate(rf"$\beta$ = {beta:g}", (rate, distortion), xytext=(6, 4), textcoords="offset points")
axis.set(xlabel="rate, nats per image", ylabel="distortion, nats per image")
axis.margins(0.25)
plt.show()

# %% [markdown]
# ## New digits
#
# Draw $z$ from the prior instead of from an image's cloud, and decode it:

# %%
show(model.sample(10, seed=0))

# %% [markdown]
# ## The real thing
#
# Two dimensions are for looking. The pipeline trains a model with 40 of them on MNIST's 28 x 28 digits, with a prior
# that is learned too, and measures it in numbers that you can quote:
#
# ```
# make repro
# ```
#
# [The tutorial](tutorial.md) explains what you have seen here with the equations and names the function behind each of
# them.
