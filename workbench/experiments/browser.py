"""Choices beside a figure, for a notebook: a trained network, a picture, a layer, a class.  notebooks/explore.ipynb."""

import html
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import UnknownName, WorkbenchError
from workbench.experiments import zoo
from workbench.experiments.store import Store

if TYPE_CHECKING:
    from workbench.backbones import Network
    from workbench.explain.still import Seen

PREDICTED = "the predicted one"
FIRST = ("cra8-resnet20", "dca-se-resnet20")  # networks, in order of preference
KEPT = 2  # networks in memory


class Drawn(NamedTuple):
    """A figure as PNG, and what it shows in words."""

    png: bytes
    text: str


class Browser:
    """The trained networks of a store, and what each does with a picture.  Raises UnknownName, DataMissing, Corrupt."""

    def __init__(self, store: Store | None = None):
        self.store = store or Store()
        self.network = lru_cache(KEPT)(self._network)
        self._seen = lru_cache(8)(self._look)

    def networks(self) -> dict[str, zoo.Trained]:
        """Key -> network."""
        found = zoo.known(self.store)
        if not found:
            raise UnknownName("trained network", FIRST[0], found)
        return found

    def pictures(self) -> list[str]:
        """Names of pictures that are here without a download."""
        from workbench.explain import samples

        return samples.known(self.store.data)

    def layers(self, network: str) -> list[str]:
        """Blocks that attend channels, else those that attend, as stage.block; without attention, the stages."""
        from workbench.attention import Trail, attentions

        built, reads = self.network(network)
        blocks = list(attentions(built))
        channels = [str(block.site) for block in blocks if block.dim == "channel"]
        if blocks:
            return list(dict.fromkeys(channels or [str(block.site) for block in blocks]))
        maps = built.maps(_grey(reads), Trail())
        return [str(number) for number in range(1, len(maps) + 1)]

    def targets(self, network: str) -> list[str]:
        """What Grad-CAM explains: the predicted class, or any by name."""
        return [PREDICTED, *self.network(network)[1].classes]

    def first(self) -> tuple[str, str, str, str]:
        """A network, a picture, a layer and a class to begin with; a picture of what the network was trained on, if
        there is one here."""
        networks, pictures = self.networks(), self.pictures()
        preferred = [one for model in FIRST for one in networks.values() if one.model == model]
        for one in [*preferred, *networks.values()]:
            for picture in pictures:
                if picture.startswith(f"{one.dataset}:"):
                    return one.key, picture, self.layers(one.key)[-1], PREDICTED
        one = [*preferred, *networks.values()][0]
        return one.key, pictures[0], self.layers(one.key)[-1], PREDICTED

    def draw(self, network: str, picture: str, layer: str, target: str = PREDICTED) -> Drawn:
        """Grad-CAM after every stage, the attention curve of the layer, and the attention of all layers."""
        from workbench.explain import still

        classes = self.network(network)[1].classes
        for kind, name, known in (("layer", layer, self.layers(network)), ("class", target, self.targets(network))):
            if name not in known:
                raise UnknownName(f"{kind} of {self.networks()[network].model}", name, known)
        seen, index = self._seen(network, picture, target)
        caption = f"{self.networks()[network]}; {picture}: Grad-CAM of {classes[index]}"
        return Drawn(still.png(seen, layer, caption), self._text(network, layer, index, seen))

    def show(self) -> None:
        """The choices, and below them the figure: an output of the cell that is replaced when a choice changes.

        It is an image and no widget, so that the saved notebook shows the last one without a kernel.
        """
        from IPython.display import display

        shown: list[Drawn] = []
        choices = Choices(self, shown.append)
        display(choices.box)
        handle = display(_image(shown[-1]), display_id=True)
        if handle is not None:  # None outside a notebook
            choices.show = lambda drawn: handle.update(_image(drawn))

    def _network(self, network: str) -> "tuple[Network, zoo.Reads]":
        return zoo.load(network, self.store)

    def _text(self, network: str, layer: str, index: int, seen: "Seen") -> str:
        """The figure in words."""
        classes = self.network(network)[1].classes
        said = int(seen.probabilities.argmax())
        shares = seen.probabilities
        text = f"{self.networks()[network]}. It says {classes[said]} ({shares[said]:.1%}). "
        text += f"Grad-CAM: what speaks for {classes[index]} ({shares[index]:.1%}). "
        values = dict(seen.channels)
        if layer not in values:
            return text + seen.why
        T = values[layer]
        return text + f"The attention of block {layer} lies from {T.min():.3f} to {T.max():.3f} over {len(T)} channels."

    def _look(self, network: str, picture: str, target: str) -> "tuple[Seen, int]":
        """What the network made of the picture, and the class that Grad-CAM explains."""
        import torch

        from workbench.errors import OutOfRange
        from workbench.explain import maps, samples
        from workbench.explain.cam import grad_cam
        from workbench.explain.still import Seen

        built, reads = self.network(network)
        pixels = samples.picture(picture, self.store.data)
        x = reads.normalised(pixels)
        with torch.no_grad():
            shares = built(x).softmax(1)[0].numpy()
        index = int(shares.argmax()) if target == PREDICTED else reads.classes.index(target)
        channels, why = [], ""
        try:
            channels = [(site, T[0]) for site, T in maps.channel_attention(built, x)]
        except OutOfRange as error:
            why = str(error)
        heats = {stage: heat[0] for stage, heat in grad_cam(built, x, [index]).items()}
        return Seen(reads.uint8(pixels), shares, heats, channels, why), index


class Choices:
    """Four select boxes and a sentence, `box`; `show` gets the figure, at once and after every choice."""

    def __init__(self, browser: Browser, show: Callable[[Drawn], None]):
        import ipywidgets

        def select(name: str, options: Any, value: str) -> Any:
            made = ipywidgets.Dropdown(options=options, value=value, description=name, layout={"width": "30em"})
            made.observe(self._changed, "value")
            return made

        self.browser, self.show, self.busy = browser, show, False
        network, picture, layer, target = browser.first()
        self.network = select("network", [(str(one), key) for key, one in browser.networks().items()], network)
        self.picture = select("picture", browser.pictures(), picture)
        self.layer = select("layer", browser.layers(network), layer)
        self.target = select("class", browser.targets(network), target)
        self.sentence = ipywidgets.HTML()
        rows = [ipywidgets.HBox(pair, layout={"flex_flow": "row wrap"}) for pair in self._pairs()]
        self.box = ipywidgets.VBox([*rows, self.sentence])
        self._redraw()

    def _pairs(self) -> list[list[Any]]:
        return [[self.network, self.picture], [self.layer, self.target]]

    def _changed(self, change: dict[str, Any]) -> None:
        """Draw what is chosen now; another network first brings its own layers and classes."""
        if self.busy:
            return
        self.sentence.value = "<p>Drawing ...</p>"
        self.busy = True  # setting the options of a box changes its value
        try:
            if change["owner"] is self.network:
                offered = [
                    (self.layer, self.browser.layers(self.network.value)),
                    (self.target, self.browser.targets(self.network.value)),
                ]
                for chosen, options in offered:
                    kept = chosen.value if chosen.value in options else options[-1 if chosen is self.layer else 0]
                    chosen.options = options
                    chosen.value = kept
        except WorkbenchError as error:
            self._refuse(error)
            return
        finally:
            self.busy = False
        self._redraw()

    def _redraw(self) -> None:
        try:
            drawn = self.browser.draw(self.network.value, self.picture.value, self.layer.value, self.target.value)
        except WorkbenchError as error:
            self._refuse(error)
            return
        self._say(drawn)

    def _refuse(self, error: WorkbenchError) -> None:
        """The error in its own sentence, and no figure of an earlier choice."""
        from workbench.explain import still

        self._say(Drawn(still.words("Nothing is drawn for this choice; the sentence above says why."), str(error)))

    def _say(self, drawn: Drawn) -> None:
        self.sentence.value = f"<p>{html.escape(drawn.text)}</p>"
        self.show(drawn)


def _image(drawn: Drawn) -> Any:
    from IPython.display import Image

    return Image(drawn.png, format="png", width=1000, alt=drawn.text)


def _grey(reads: zoo.Reads) -> Any:
    """One grey picture as the network reads it, for the shapes of its maps."""
    import numpy as np

    return reads.normalised(np.full((reads.side, reads.side, 3), 128, np.uint8))
