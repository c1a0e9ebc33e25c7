//! From what a user typed to a sandbox's id.

use client::Process;
use model::SandboxId;

use super::context::Context;
use super::failure::Failure;
use super::near::{NEAR_MAX, ids, nearest};

/// Returns the id that `given` is, or is the only beginning of, in any case.
///
/// A whole id is taken as it is, without asking whether it exists: some requests answer for ids that do not.
///
/// # Errors
/// No id or more than one begins so, or the server cannot be asked.
pub(super) async fn resolve(context: &Context, given: &str) -> Result<String, Failure> {
    if let Ok(id) = given.parse::<SandboxId>() {
        return Ok(id.to_string());
    }
    if given.is_empty() || !given.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Failure::Usage(format!("use {given:?}: an id has only letters and digits")));
    }
    let rows = context.client.list().await.map_err(|e| context.failure("list the sandboxes", e))?;
    choose(given, &ids(&rows.value))
}

/// Returns the process that `given` is, or is the only beginning of, in any case.
///
/// # Errors
/// No process or more than one begins so, or the server cannot be asked.
pub(super) async fn resolve_process(
    context: &Context,
    sandbox: &str,
    given: &str,
) -> Result<Process, Failure> {
    let listed = match context.client.processes(sandbox).await {
        Ok(listed) => listed.value.processes,
        Err(error) => return Err(context.failure_about(sandbox, "list the processes of", error).await),
    };
    let wanted = given.to_ascii_uppercase();
    let mut found: Vec<Process> =
        listed.into_iter().filter(|p| !wanted.is_empty() && p.id.starts_with(&wanted)).collect();
    match found.len() {
        0 => Err(Failure::NoProcess { given: given.to_owned(), sandbox: sandbox.to_owned() }),
        1 => Ok(found.swap_remove(0)),
        _ => {
            let candidates = found.into_iter().take(NEAR_MAX + 2).map(|process| process.id).collect();
            Err(Failure::Ambiguous { given: given.to_owned(), candidates })
        }
    }
}

fn choose(given: &str, ids: &[String]) -> Result<String, Failure> {
    let wanted = given.to_ascii_uppercase();
    let mut candidates: Vec<String> = ids.iter().filter(|id| id.starts_with(&wanted)).cloned().collect();
    match candidates.len() {
        0 => Err(Failure::NotFound { given: given.to_owned(), near: nearest(&wanted, ids) }),
        1 => Ok(candidates.swap_remove(0)),
        _ => {
            candidates.truncate(NEAR_MAX + 2);
            Err(Failure::Ambiguous { given: given.to_owned(), candidates })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near::distance;

    const A: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    const B: &str = "01ARZ3NDEKTSV4RRFFQ69G5FBX";

    fn all() -> Vec<String> {
        vec![A.to_owned(), B.to_owned(), "01BX5ZZKBKACTAV9WEVGEMMVRZ".to_owned()]
    }

    #[test]
    fn a_unique_beginning_is_enough() {
        let check = |given: &str, id: &str| assert_eq!(choose(given, &all()).unwrap(), id);
        check("01b", "01BX5ZZKBKACTAV9WEVGEMMVRZ");
        check("01ARZ3NDEKTSV4RRFFQ69G5FA", A);
        assert!(
            matches!(choose("01A", &all()), Err(Failure::Ambiguous { candidates, .. }) if candidates == [A, B])
        );
    }

    #[test]
    fn a_slip_of_the_hand_gets_an_offer() {
        let near = |given: &str| match choose(given, &all()) {
            Err(Failure::NotFound { near, .. }) => near,
            other => panic!("{other:?}"),
        };
        assert_eq!(near("01ARZ3NDEKTSV4RRFFQ69G5FA8V"), [A, B]);
        assert_eq!(near("01BX6"), ["01BX5ZZKBKACTAV9WEVGEMMVRZ"]);
        assert_eq!(near("7"), Vec::<String>::new());
        assert_eq!(nearest("01ARZ3NDEKTSV4RRFFQ69G5FAW", &[]), Vec::<String>::new());
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        let check = |a: &str, b: &str, d| {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!((distance(&chars(a), &chars(b)), distance(&chars(b), &chars(a))), (d, d), "{a} {b}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("flaw", "lawn", 2);
    }
}
