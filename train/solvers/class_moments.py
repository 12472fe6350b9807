"""Linear discriminant analysis from block sums: one pass serves every shrinkage and any set of folds.

Friedman 1989 (regularized discriminant analysis), with one covariance for all classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored

# A class without rows lies at the mean of all rows with this share, so that its scores are far below others.
_NO_SHARE = 1e-12
# A scatter within classes below this share of the mean square of the rows is noise of floating point.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class ClassMoments:
    """Moments of the classes, from which discriminants are made.

    Attributes
    ----------
    within : Tensor of float64, shape (r, r)
        Covariance of features about the mean of their class, over all classes.
    means : Tensor of float64, shape (r, n_classes)
    log_shares : Tensor of float64, shape (n_classes,)
        Logarithms of the classes' shares of the rows.
    variance : float
        Mean variance of a column about the mean of its class; covariances are shrunk toward it.
    """

    within: Tensor
    means: Tensor
    log_shares: Tensor
    variance: float

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor, *, n_columns: int) -> "ClassMoments":
        """Make the moments from sums over rows of ``(phi, 1)`` and one-hot targets.

        Parameters
        ----------
        gram : Tensor of float64, shape (r + 1, r + 1)
        cross : Tensor of float64, shape (r + 1, n_classes)
        n_columns : int
            Columns d of the rows. The features may be fewer, because the rows may span fewer dimensions.
        """
        weight, counts = gram[-1, -1], cross[-1]
        mean = gram[:-1, -1] / weight
        is_present = counts > 0
        # 1e-300 only keeps a division by 0 out of the branch that `where` does not take.
        means = torch.where(is_present, cross[:-1] / counts.clamp(min=1e-300), mean[:, None])
        # Total scatter less the scatter between classes is the scatter within them: no second pass over the
        # rows is needed to center each row by its class.
        within = torch.addr(gram[:-1, :-1], mean, mean, alpha=-float(weight))
        between = (means - mean[:, None]) * counts.sqrt()
        within = within.addmm_(between, between.T, alpha=-1).div_(weight)
        # Rounding of the products leaves the halves slightly different, and the factorization reads one half.
        within = (within + within.T) / 2
        shares = torch.where(is_present, counts / weight, _NO_SHARE)
        # The mean is over the d columns of the rows. Coordinates of the rows' span keep the sum of variances,
        # so that one shrinkage gives the same answer in either.
        variance = float(within.diagonal().clamp(min=0).sum())
        square = float(gram.diagonal()[:-1].sum() / weight)
        # Where every row is the mean of its class, as with one row a class, the scatter within is rounding of
        # what was subtracted. There is no variance to shrink toward then, and all directions weigh alike.
        if variance <= _ROUNDING * square:
            within.zero_()
            variance = n_columns * (square or 1.0)
        return cls(within=within, means=means, log_shares=shares.log(), variance=variance / n_columns)

    def solve(self, shrinkage: float) -> tuple[Tensor, float]:
        """Return the coefficients (r + 1, n_classes), the intercept last, and the jitter of factoring.

        Scores are logarithms of posteriors up to a constant, with covariance
        ``(1 - shrinkage) within + shrinkage variance I``.

        Raises
        ------
        NumericalError
            If no jitter makes the covariance positive definite.
        """
        system = self.within * (1 - shrinkage)
        system.diagonal().add_(shrinkage * self.variance)
        factor, jitter = cholesky_with_jitter(
            system, what=f"the covariance within classes at shrinkage {shrinkage:g}"
        )
        beta = solve_factored(factor, self.means)
        # log p(c | x) = x' S^-1 m_c - m_c' S^-1 m_c / 2 + log share_c, but for what all classes share.
        intercept = self.log_shares - (self.means * beta).sum(dim=0) / 2
        return torch.cat([beta, intercept[None]]), jitter
