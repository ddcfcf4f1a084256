/** The value below which a share of sorted values lies, by linear interpolation. */
function quantile(sorted, share) {
  const place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** The five numbers of a box plot: whiskers end at the last value within 1.5 IQR of the box. */
export function boxPlot(sorted) {
  const [Q1, median, Q3] = [0.25, 0.5, 0.75].map((share) => quantile(sorted, share)), reach = 1.5 * (Q3 - Q1);
  return {
    low: sorted.find((value) => value >= Q1 - reach), Q1, median, Q3,
    high: sorted.findLast((value) => value <= Q3 + reach),
  };
}
