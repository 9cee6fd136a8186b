r"""Bilinear sampling as a linear operator: the one place that knows how to read between pixels.

For fixed positions, sampling is a sparse matrix S with four entries a sample::

    forward           columns    = S x
    gradient of x     grad_x     = S^T grad_columns
    gradient of p     grad_y     = modulation * <grad_columns, slope of the bilinear surface along y>

The value at :math:`(y, x) = (y_0 + l_y, x_0 + l_x)` in the cell with corners
:math:`v_{00}, v_{01}, v_{10}, v_{11}` is [eq:sample.1]

.. math:: v = (1-l_y)(1-l_x) v_{00} + (1-l_y) l_x v_{01} + l_y (1-l_x) v_{10} + l_y l_x v_{11}

with slopes [eq:sample.2]

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

from collections.abc import Iterator
from typing import Any, NamedTuple

from dcnlab.arrays import Array, array_module, blocks, sparse_module

# Displacements beyond this many pixels are outside every image; the bound keeps them within int32.
FAR = 2**30

# Corners are gathered a few at a time, so that they are still in the cache when they are multiplied.
CORNER_BYTES = 2**20


class Cells(NamedTuple):
    """The bilinear cells that a block of samples falls into; the three arrays have the same shape."""

    index: Array  # row of Frame.rows that holds the top-left corner
    ly: Array  # how far down the cell, 0 to 1
    lx: Array  # how far to the right, 0 to 1


class Entries(NamedTuple):
    """The entries of a sampling matrix, four for every sample that a row sums."""

    weights: Array  # (rows, 4*taps): weight of the corner, times the modulation
    columns: Array  # (rows, 4*taps): row of Frame.rows that holds the corner


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

    def locate(
        self,
        base: tuple[Array, Array],
        displacement: tuple[Array, Array],
        group: Array,
        modulation: Array | None = None,
    ) -> Cells:
        """Return the cells of the samples at ``base + displacement``.

        Parameters
        ----------
        base : (y, x), int32
            Integer parts of the positions; all arrays broadcast against each other.
        displacement : (y, x), float
        group : int
            Channel group of each sample.
        modulation : float or None
            Only looked at for NaN.
        """
        xp = array_module(displacement[0])
        dy, dx = xp.ascontiguousarray(displacement[0]), xp.ascontiguousarray(displacement[1])
        unusable = _unusable(dy, dx, modulation)
        if unusable is not None:
            nan, lost = unusable
            dy, dx = xp.where(lost, 0, dy), xp.where(lost, 0, dx)
        row, ly = _split(base[0], dy, self.index_type)
        column, lx = _split(base[1], dx, self.index_type)
        inside = _inside(row, ly, self.height) & _inside(column, lx, self.width)
        if unusable is not None:
            inside &= ~lost
            ly, lx = xp.where(nan, xp.nan, ly), xp.where(nan, xp.nan, lx)
        row *= self.shape[1]
        row += column
        row *= self.groups
        index = xp.where(inside, row + self.corners[3], self.index_type(self.nowhere))  # (y, x) stands at (y+1, x+1)
        index += group
        return Cells(index, ly, lx)

    def entries(self, cells: Cells, modulation: Array | None, taps: int) -> Entries:
        """Return the entries of the sampling matrix S, row by row.

        With ``taps=1`` every sample is a row: the columns of DCNv2. With ``taps=K`` a row sums the K modulated samples
        that lie next to each other in memory: the whole of DCNv3.
        """
        xp = array_module(cells.ly)
        weights = xp.stack(corner_weights(cells, modulation), axis=-1)
        columns = xp.stack([cells.index + self.index_type(step) for step in self.corners], axis=-1)
        return Entries(weights.reshape(-1, 4 * taps), columns.reshape(-1, 4 * taps))

    def matrix(self, entries: Entries) -> Any:
        """Return S as a sparse matrix, (rows, len(self.rows))."""
        weights, columns = entries
        xp = array_module(weights)
        starts = xp.arange(0, columns.size + 1, columns.shape[1], dtype=self.index_type)
        shape = (len(columns), len(self.rows))
        return sparse_module(xp).csr_matrix((weights.reshape(-1), columns.reshape(-1), starts), shape=shape)

    def gather(self, entries: Entries, part: int) -> Iterator[Array]:
        """Yield S @ self.rows, `part` rows at a time: the samples are used while they are still in the cache."""
        matrix = None
        for start in range(0, len(entries.weights), part):
            piece = Entries(entries.weights[start : start + part], entries.columns[start : start + part])
            if matrix is None or len(piece.weights) < part:
                matrix = self.matrix(piece)
            else:  # the rows start where the last part's did: building another matrix would take as long as using it
                matrix.data, matrix.indices = piece.weights.reshape(-1), piece.columns.reshape(-1)
            yield matrix @ self.rows

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
        dots = [xp.empty(cells.index.shape, grad.dtype) for _ in self.corners]
        row_bytes = cells.index.shape[1] * self.rows.shape[1] * grad.dtype.itemsize
        for rows in blocks(len(grad), row_bytes, CORNER_BYTES):
            for step, dot in zip(self.corners, dots, strict=True):
                corner = self.rows.take(cells.index[rows] + self.index_type(step), axis=0)  # (rows, taps, C/G)
                dot[rows] = xp.einsum("rtc,rc->rt", corner, grad[rows])
        return dots

    def crop(self, grad_rows: Array) -> Array:
        """Return the (H, W, C) image inside a gradient of `rows`; what fell on the frame is dropped."""
        return grad_rows.reshape(self.shape)[1 : self.height + 1, 1 : self.width + 1]


def corner_weights(cells: Cells, modulation: Array | None) -> tuple[Array, Array, Array, Array]:
    """Return the weights of v00, v01, v10 and v11, times the modulation: [eq:sample.1]."""
    ly, lx = cells.ly, cells.lx
    hy, hx = 1 - ly, 1 - lx
    if modulation is not None:
        ly, hy = ly * modulation, hy * modulation
    return hy * hx, hy * lx, ly * hx, ly * lx


def sample_gradients(cells: Cells, dots: list[Array], modulation: Array | None) -> tuple[Array, Array, Array]:
    """Return the gradients of each sample's y, x and modulation, from its four corner dots: [eq:sample.3].

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
    zero, flat = xp.zeros(1, xp.int32), positions.reshape(-1, 2)
    cells = frame.locate((zero, zero), (flat[:, 0], flat[:, 1]), zero, weight)
    if bool(xp.isnan(cells.ly).any()):
        raise ValueError("positions and modulation must not be NaN: a NaN has no column to stand in")
    column = xp.arange(height * width)
    inner = (column // width + 1) * frame.shape[1] + column % width + 1
    matrix = frame.matrix(frame.entries(cells, weight, taps=1))[:, inner]
    matrix.eliminate_zeros()
    return matrix


def _unusable(dy: Array, dx: Array, modulation: Array | None) -> tuple[Array, Array] | None:
    """Return which samples are NaN, and which are NaN or too far to number; None in the common case of neither."""
    xp = array_module(dy)
    # Two cheap reductions decide whether the careful tests are needed: a NaN fails every comparison.
    usable = all(d.size == 0 or (d.max() < FAR and d.min() > -FAR) for d in (dy, dx))
    if usable and (modulation is None or modulation.size == 0 or modulation.max() == modulation.max()):
        return None
    nan = xp.isnan(dy) | xp.isnan(dx)
    if modulation is not None:
        nan |= xp.isnan(modulation)
    return nan, nan | ~((abs(dy) < FAR) & (abs(dx) < FAR))


def _split(base: Array, displacement: Array, index_type: Any) -> tuple[Array, Array]:
    """Return the cell floor(base + displacement) and the fraction inside it, without ever adding the two."""
    below = array_module(displacement).floor(displacement)
    return base + below.astype(index_type), displacement - below


def _inside(cell: Array, fraction: Array, size: int) -> Array:
    """Return whether -1 < cell + fraction < size, for fractions in [0, 1].

    One comparison does for both ends: a negative number, read as unsigned, is huge. It lets cell = size with
    fraction 0 pass, which is harmless: both corners of that cell are zeros of the frame.
    """
    above = cell + (fraction > 0)
    return above.view(f"uint{8 * above.dtype.itemsize}") <= size
