"""What a network saw in a sketch and a photo: tensors only. `pipelines.drawing.explanations` draws them.

base.py          what every explanation has, and how a method declares its own
patches.py       `zse_sbir`: patches of both pictures
masks.py         `crossatnet`: places of the photo
matches.py       `late_interaction`: the matches that the score is the sum of
pair.py          explain a pair by any method
faithfulness.py  does an explanation point at what the score depends on?
"""
