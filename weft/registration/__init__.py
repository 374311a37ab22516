"""Registration of a pair of images: an affine, then block-wise deformable stages.

`weft.registration.contract` holds what every deformable backend takes and gives.
"""
