//! Ids that look like one that is not there.

use client::{Client, Row};

/// The most ids that are offered instead.
pub(super) const NEAR_MAX: usize = 3;
/// The most changed characters at which an id still counts as near.
const NEAR_DISTANCE_MAX: usize = 4;

/// Returns ids that look like one that is not there; none if the server cannot be asked.
pub(super) async fn near(client: &Client, id: &str) -> Vec<String> {
    client.list().await.map(|rows| nearest(id, &ids(&rows.value))).unwrap_or_default()
}

pub(super) fn ids(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.id.to_ascii_uppercase()).collect()
}

pub(super) fn nearest(wanted: &str, ids: &[String]) -> Vec<String> {
    let wanted: Vec<char> = wanted.to_ascii_uppercase().chars().take(64).collect();
    // With a few characters nearly everything is near.
    let limit = NEAR_DISTANCE_MAX.min(wanted.len() / 2);
    let mut found: Vec<(usize, &String)> = ids
        .iter()
        .map(|id| (distance(&wanted, &id.chars().take(wanted.len()).collect::<Vec<_>>()), id))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    found.sort();
    found.into_iter().take(NEAR_MAX).map(|(_, id)| id.clone()).collect()
}

/// The Levenshtein distance, row by row.
pub(super) fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
