//! Whose things are, so that those of one owner are found without looking at all.

use std::collections::{BTreeSet, HashMap};

use model::{External, SandboxId};

/// Sandboxes, or workspaces without one, by user and by project.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    by_user: HashMap<String, BTreeSet<SandboxId>>,
    by_project: HashMap<String, BTreeSet<SandboxId>>,
}

impl Owners {
    pub(crate) fn add(&mut self, id: SandboxId, owner: &External) {
        add(&mut self.by_user, id, owner.user_id());
        add(&mut self.by_project, id, owner.project_id());
    }

    pub(crate) fn remove(&mut self, id: SandboxId, owner: &External) {
        remove(&mut self.by_user, id, owner.user_id());
        remove(&mut self.by_project, id, owner.project_id());
    }

    /// Oldest first.
    pub(crate) fn of_user(&self, user: &str) -> impl Iterator<Item = SandboxId> {
        self.by_user.get(user).into_iter().flatten().copied()
    }

    /// Oldest first.
    pub(crate) fn of_project(&self, project: &str) -> impl Iterator<Item = SandboxId> {
        self.by_project.get(project).into_iter().flatten().copied()
    }
}

fn add(map: &mut HashMap<String, BTreeSet<SandboxId>>, id: SandboxId, owner: Option<&str>) {
    if let Some(owner) = owner {
        map.entry(owner.to_owned()).or_default().insert(id);
    }
}

fn remove(map: &mut HashMap<String, BTreeSet<SandboxId>>, id: SandboxId, owner: Option<&str>) {
    let Some(owner) = owner else { return };
    if let Some(ids) = map.get_mut(owner) {
        ids.remove(&id);
        if ids.is_empty() {
            map.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_and_go_with_what_they_have() {
        let owner = |user: &str, project: &str| {
            External::new(Some(user.to_owned()), Some(project.to_owned()), None).unwrap()
        };
        let (a, b) = (SandboxId::generate(), SandboxId::generate());
        let mut owners = Owners::default();
        owners.add(a, &owner("u", "p"));
        owners.add(b, &owner("u", "q"));
        owners.add(b, &External::default());
        assert_eq!((owners.of_user("u").count(), owners.of_project("q").collect::<Vec<_>>()), (2, vec![b]));
        owners.remove(a, &owner("u", "p"));
        assert_eq!((owners.of_user("u").collect::<Vec<_>>(), owners.of_project("p").count()), (vec![b], 0));
        owners.remove(b, &owner("u", "q"));
        assert!(owners.by_user.is_empty() && owners.by_project.is_empty());
    }
}
