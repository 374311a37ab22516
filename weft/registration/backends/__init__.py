"""Deformable backends: one module each, with one public function `register` (`weft.registration.contract`)."""
