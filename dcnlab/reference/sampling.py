r"""Bilinear sampling as a linear operator: the one place that knows how to read between pixels.

For fixed positions, sampling is a sparse matrix S with four entries a sample::

    forward           columns    = S x
    gradient of x     grad_x     = S^T grad_columns
    gradient of p     grad_y     = modulation * <grad_columns, slope of the bilinear surface along y>

The value at :math:`(y, x) = (y_0 + l_y, x_0 + l_x)` in the cell with corners
:math:`v_{00}, v_{01}, v_{10}, v_{11}` is

.. math:: v = (1-l_y)(1-l_x) v_{00} + (1-l_y) l_x v_{01} + l_y (1-l_x) v_{10} + l_y l_x v_{11}

with slopes

.. math:: \partial v/\partial y = (1-l_x)(v_{10} - v_{00}) + l_x (v_{11} - v_{01}), \quad
          \partial v/\partial x = (1-l_y)(v_{01} - v_{00}) + l_y (v_{11} - v_{10})

At a lattice line these are the slopes of the cell floor(y), floor(x), the right-hand ones.

The borders are handled by a frame of zeros around the image, one pixel wide above and to the left, two below and to
the right. A corner outside the image reads a zero of the frame. A sample outside (-1, H) x (-1, W) is sent
*nowhere*: to the frame's last cell, whose four corners are all zeros, so that its value and its slopes are 0 without
ever touching a pixel (a NaN pixel times a weight of 0 would still be NaN). Samples with a NaN in their position or
modulation go there too, with NaN fractions: the output becomes NaN, and what S^T would scatter falls on the frame,
which is cropped away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dcnlab.arrays import Array, array_module, sparse_module

# Displacements beyond this many pixels are outside every image; the bound keeps them within int32.
FAR = 2**30


class Cells(NamedTuple):
    """The bilinear cells that a block of samples falls into; the three arrays have the same shape."""

    index: Array  # row of Frame.rows that holds the top-left corner
    ly: Array  # how far down the cell, 0 to 1
    lx: Array  # how far to the right, 0 to 1


class Frame:
    """One channels-last image, in G channel groups, standing in its frame of zeros.

    Parameters
    ----------
    features : (H, W, C)
        The image; copied into the frame. C = G * (channels of a group).
    groups : int
        G. Group g of a sample reads channels g*C/G to (g+1)*C/G.

    Attributes
    ----------
    rows : ((H+3)*(W+3)*G, C/G)
        What the columns of the sampling matrix number: row ``((y+1)*(W+3) + x+1)*G + g`` is group g of pixel (y, x).
    """

    def __init__(self, features: Array, groups: int) -> None:
        xp = array_module(features)
        height, width, channels = features.shape
        if height >= FAR or width >= FAR:
            raise ValueError(f"an image may have up to 2**30 - 1 rows and columns, got {height}x{width}")
        self.height, self.width, self.groups = height, width, groups
        self.shape = (height + 3, width + 3, channels)
        framed = xp.zeros(self.shape, features.dtype)
        framed[1 : height + 1, 1 : width + 1] = features
        self.rows = framed.reshape(-1, channels // groups)
        line = (width + 3) * groups  # from a pixel to the one below
        self.corners = (0, groups, line, line + groups)  # steps to v00, v01, v10, v11
        self.nowhere = ((height + 1) * (width + 3) + width + 1) * groups
        self.index_type = xp.int32 if len(self.rows) < 2**31 else xp.int64

    def locate(self, base: Array, displacement: Array, group: Array, modulation: Array | None = None) -> Cells:
        """Return the cells of the samples at ``base + displacement``.

        Parameters
        ----------
        base : (..., 2) int32
            Integer part of the positions, last axis (y, x); broadcasts against `displacement`.
        displacement : (..., 2) float
        group : (...) int
            Channel group of each sample; broadcasts likewise.
        modulation : (...) or None
            Only looked at for NaN.
        """
        xp = array_module(displacement)
        dy, dx = (xp.ascontiguousarray(displacement[..., axis]) for axis in (0, 1))
        unusable = _unusable(dy, dx, modulation)
        if unusable is not None:
            nan, lost = unusable
            dy, dx = xp.where(lost, 0, dy), xp.where(lost, 0, dx)
        row, ly = _split(base[..., 0], dy, self.index_type)
        column, lx = _split(base[..., 1], dx, self.index_type)
        inside = _inside(row, ly, self.height) & _inside(column, lx, self.width)
        if unusable is not None:
            inside &= ~lost
            ly, lx = xp.where(nan, xp.nan, ly), xp.where(nan, xp.nan, lx)
        row *= self.shape[1]
        row += column
        row *= self.groups
        index = xp.where(inside, row + self.corners[3], self.index_type(self.nowhere))  # (y, x) stands at (y+1, x+1)
        return Cells(index + group, ly, lx)

    def matrix(self, cells: Cells, modulation: Array | None, taps: int) -> Any:
        """Return the sparse sampling matrix S, (samples/taps, len(self.rows)), with 4*taps entries a row.

        With ``taps=1`` every sample is a row: the columns of DCNv2. With ``taps=K`` a row sums the K modulated samples
        that lie next to each other in memory: the whole of DCNv3.
        """
        xp = array_module(cells.ly)
        weights = xp.stack(corner_weights(cells, modulation), axis=-1)
        step = xp.asarray(self.corners, dtype=self.index_type)
        columns = cells.index[..., None] + step
        starts = xp.arange(0, columns.size + 1, 4 * taps, dtype=self.index_type)
        shape = (cells.index.size // taps, len(self.rows))
        return sparse_module(xp).csr_matrix((weights.reshape(-1), columns.reshape(-1), starts), shape=shape)

    def corner_dots(self, cells: Cells, grad: Array) -> list[Array]:
        """Return <corner, grad> over the channels for the four corners of every sample, each (rows, taps).

        All three gradients of a sample follow from these four numbers.

        Parameters
        ----------
        cells
            With `index` of shape (rows, taps).
        grad : (rows, C/G)
            What arrives from above at the sum of each row's taps.
        """
        xp = array_module(grad)
        dots = []
        for step in self.corners:
            corner = self.rows.take(cells.index + step, axis=0)  # (rows, taps, C/G)
            dots.append(xp.einsum("rtc,rc->rt", corner, grad))
        return dots

    def crop(self, grad_rows: Array) -> Array:
        """Return the (H, W, C) image inside a gradient of `rows`; what fell on the frame is dropped."""
        return grad_rows.reshape(self.shape)[1 : self.height + 1, 1 : self.width + 1]


def corner_weights(cells: Cells, modulation: Array | None) -> tuple[Array, Array, Array, Array]:
    """Return the weights of v00, v01, v10 and v11, times the modulation."""
    ly, lx = cells.ly, cells.lx
    hy, hx = 1 - ly, 1 - lx
    if modulation is not None:
        ly, hy = ly * modulation, hy * modulation
    return hy * hx, hy * lx, ly * hx, ly * lx


def sample_gradients(cells: Cells, dots: list[Array], modulation: Array | None) -> tuple[Array, Array, Array]:
    """Return the gradients of each sample's y, x and modulation, from its four corner dots.

    Samples nowhere have zero dots: their gradients are 0, or NaN where the fractions are NaN.
    """
    ly, lx = cells.ly, cells.lx
    hy, hx = 1 - ly, 1 - lx
    d00, d01, d10, d11 = dots
    left, right = d10 - d00, d11 - d01
    grad_y = hx * left + lx * right
    grad_x = hy * (d01 - d00) + ly * (d11 - d10)
    grad_modulation = hx * (d00 + ly * left) + lx * (d01 + ly * right)
    if modulation is not None:
        grad_y *= modulation
        grad_x *= modulation
    return grad_y, grad_x, grad_modulation


def sampling_matrix(positions: Array, modulation: Array | None, height: int, width: int) -> Any:
    """Return the sparse matrix S that samples an image of height x width at the given positions.

    ``S @ image.reshape(height * width, C)`` are the modulated bilinear samples.

    Parameters
    ----------
    positions : (..., 2)
        Last axis (y, x), in pixels.
    modulation : (...) or None
        Multiplies the rows; None stands for 1.
    height, width : int
        Size of the image.

    Returns
    -------
    scipy.sparse.csr_matrix (cupyx.scipy.sparse for CuPy positions)
        (number of positions, height*width). Corners outside the image have no entry.

    Raises
    ------
    ValueError
        When a position or a modulation is NaN: a NaN has no column to stand in. Or when the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> sampling_matrix(np.array([[0.25, 0.5]]), None, 2, 2).toarray()
    array([[0.375, 0.375, 0.125, 0.125]])
    """
    xp = array_module(positions)
    if positions.ndim < 1 or positions.shape[-1] != 2:
        raise ValueError(f"positions must have shape (..., 2), got {tuple(positions.shape)}")
    if modulation is not None and modulation.shape != positions.shape[:-1]:
        raise ValueError(f"modulation must have shape {positions.shape[:-1]}, got {tuple(modulation.shape)}")
    frame = Frame(xp.zeros((height, width, 1), positions.dtype), groups=1)
    weight = None if modulation is None else modulation.reshape(-1)
    zero = xp.zeros(2, xp.int32)
    cells = frame.locate(zero, positions.reshape(-1, 2), zero[0], weight)
    if bool(xp.isnan(cells.ly).any()):
        raise ValueError("positions and modulation must not be NaN: a NaN has no column to stand in")
    column = xp.arange(height * width)
    inner = (column // width + 1) * frame.shape[1] + column % width + 1
    matrix = frame.matrix(cells, weight, taps=1).tocsr()[:, inner]
    matrix.eliminate_zeros()
    return matrix


def _unusable(dy: Array, dx: Array, modulation: Array | None) -> tuple[Array, Array] | None:
    """Return which samples are NaN, and which are NaN or too far to number; None in the common case of neither."""
    xp = array_module(dy)
    # A NaN fails every comparison. One cheap pass decides whether the careful ones are needed.
    usable = (abs(dy) < FAR).all() & (abs(dx) < FAR).all()
    if modulation is not None:
        usable &= (modulation == modulation).all()
    if bool(usable):
        return None
    nan = xp.isnan(dy) | xp.isnan(dx)
    if modulation is not None:
        nan |= xp.isnan(modulation)
    return nan, nan | ~((abs(dy) < FAR) & (abs(dx) < FAR))


def _split(base: Array, displacement: Array, index_type: Any) -> tuple[Array, Array]:
    """Return the cell floor(base + displacement) and the fraction inside it, without ever adding the two."""
    xp = array_module(displacement)
    below = xp.floor(displacement)
    return base + below.astype(index_type), displacement - below


def _inside(cell: Array, fraction: Array, size: int) -> Array:
    """Return whether -1 < cell + fraction < size, for fractions in [0, 1]."""
    return (cell + (fraction > 0) >= 0) & (cell < size)
