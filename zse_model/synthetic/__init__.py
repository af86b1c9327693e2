"""A small drawn world: photo-like pictures and hand-drawn sketches of the same made-up instances.

    shapes.py       polygons, curves, tubes; the parts that categories share
    categories/     one function a category: it places parts in a `Drawing`
    render.py       an instance -> its photo, its sketches

Proportions, counts and pose of an instance come from a random generator of its own. The photo fills the parts with
coloured, textured, lit surfaces before a cluttered background. The sketch traces the outlines of the same parts with an
unsteady hand. Categories share parts, so that a model can recognise unseen categories by what it learned on seen ones.

Pictures are a function of their arguments alone, for given NumPy and Pillow releases. Left out: perspective, occlusion
between objects, several objects in one picture. Results do not carry over to real photos.
"""

from zse_model.synthetic.categories import CATEGORIES, UNSEEN
from zse_model.synthetic.render import draw_photo, draw_sketch

__all__ = ["CATEGORIES", "UNSEEN", "draw_photo", "draw_sketch"]
