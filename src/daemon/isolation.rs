//! Whether sandboxes have user namespaces: what was asked for, and what the host can.

use std::path::Path;

use super::exit::Exit;
use super::rootfs::{self, Serves, existing};
use crate::config::{Config, UserNamespaces};
use engine::bundle::Template;
use engine::{Runtime, Support};
use model::{Finding, IdBase};
use sandbox::UserSpaces;
use sys::userns;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[error("give each sandbox a user namespace, as user_namespaces asks for: {0}")]
struct Required(String);

/// What sandboxes can have of their own.
#[derive(Debug)]
pub(super) struct Own {
    /// How they get ids; `None`: they do not.
    pub(super) user_spaces: Option<UserSpaces>,
    /// Whether they have inodes for the root file system.
    pub(super) covers_rootfs: bool,
}

/// Tries in the launcher, as confined as it is, what sandboxes can have of their own.
pub(super) async fn own(config: &Config, runtime: &Runtime, workspaces: &Path) -> Result<Own, Exit> {
    let user_spaces = user_spaces(config, runtime, workspaces).await?;
    let covers_rootfs = if let Some(spaces) = user_spaces {
        spaces.support.covers_rootfs
    } else {
        let probed =
            runtime.probe_user_namespaces(Vec::new(), config.rootfs.clone(), workspaces.to_owned()).await;
        let probed = probed.map_err(|e| Exit::Unavailable.because(&e, ""))?;
        probed.is_ok_and(|support| support.covers_rootfs)
    };
    if !covers_rootfs {
        tracing::warn!("sandboxes share the inodes of the root file system; see `sandboxd check`");
    }
    Ok(Own { user_spaces, covers_rootfs })
}

/// How sandboxes get ids of their own; `None`: they do not.
async fn user_spaces(
    config: &Config,
    runtime: &Runtime,
    workspaces: &Path,
) -> Result<Option<UserSpaces>, Exit> {
    let required = |problem: String| {
        Exit::Unavailable.because(&Required(problem), "see `sandboxd check`, or set user_namespaces to auto")
    };
    if config.user_namespaces == UserNamespaces::Off {
        tracing::warn!(
            "sandboxes have no user namespaces (user_namespaces is off): their ids are the host's"
        );
        return Ok(None);
    }
    let ids = ids_of_probe(config.id_base);
    let probed = runtime.probe_user_namespaces(ids, config.rootfs.clone(), workspaces.to_owned());
    let probed = probed.await.map_err(|e| Exit::Unavailable.because(&e, ""))?;
    let is_required = config.user_namespaces == UserNamespaces::Require;
    match probed {
        Ok(Support { maps_workspaces: false, .. }) if is_required => {
            Err(required("the file system of the data directory cannot be mapped".to_owned()))
        }
        Ok(support) => {
            if !support.maps_workspaces || !support.maps_rootfs {
                tracing::warn!(?support, "not every file system can be mapped; see `sandboxd check`");
            }
            Ok(Some(UserSpaces { base: config.id_base, support }))
        }
        Err(problem) if is_required => Err(required(problem)),
        Err(problem) => {
            tracing::warn!(problem, "sandboxes have no user namespaces: their ids are the host's");
            Ok(None)
        }
    }
}

/// What `sandboxd check` says of them.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let is_required = config.user_namespaces == UserNamespaces::Require;
    let probed = match config.user_namespaces {
        UserNamespaces::Off => Err("user_namespaces is off".to_owned()),
        UserNamespaces::Auto | UserNamespaces::Require => {
            let (rootfs, workspaces) = (existing(&config.rootfs), config.data_dir.join("workspaces"));
            let bounds = Template::embedded().and_then(|template| template.bounds());
            let probe =
                |bounds| userns::probe(&ids_of_probe(config.id_base), rootfs, existing(&workspaces), &bounds);
            bounds.map_err(|e| e.to_string()).and_then(probe)
        }
    };
    let mapped = |found: fn(&userns::Support) -> bool| probed.as_ref().is_ok_and(found);
    let workspaces = mapped(|s| s.maps_workspaces);
    let covers = probed
        .as_ref()
        .map_or_else(|_| userns::covers(existing(&config.rootfs)), |support| support.covers_rootfs);
    let serves = if workspaces { rootfs::serving(config) } else { Serves::Original };
    let (root_files, detail_of_root_files) = root_files(serves, mapped(|s| s.maps_rootfs));
    let said = |mapped: bool| if mapped { "can be mapped" } else { "cannot be mapped" }.to_owned();
    let overlap = subordinate_overlap(config.id_base);
    vec![
        Finding {
            feature: "user namespaces",
            found: probed.is_ok(),
            detail: probed.as_ref().err().cloned().unwrap_or_else(|| {
                format!(
                    "65536 ids for each of up to {} sandboxes, from {} on",
                    config.id_base.capacity(),
                    config.id_base
                )
            }),
            consequence: "all sandboxes have the ids of one user of the host, and nobody is root inside: what escapes is not confined by them",
            remedy: "sysctl user.max_user_namespaces above 0; nothing mounted over parts of /proc or /sys (in a container --privileged)",
            required: is_required,
        },
        Finding {
            feature: "mapped workspaces",
            found: workspaces,
            detail: said(workspaces),
            consequence: "the users of all sandboxes are one user of the host, and nobody is root inside",
            remedy: "a data_dir on ext4, XFS, btrfs or tmpfs (not on overlayfs), Linux 5.12 or newer",
            required: is_required,
        },
        Finding {
            feature: "mapped root files",
            found: root_files,
            detail: detail_of_root_files,
            consequence: "files of the root file system show as nobody's inside, and root there cannot read those that only root may",
            remedy: "a rootfs on ext4, XFS, btrfs or tmpfs; or on overlayfs, as in an image, and a data_dir that is not and has 4 GiB free",
            required: false,
        },
        Finding {
            feature: "inodes of their own",
            found: covers,
            detail: if covers {
                "an overlay for each sandbox, and its own device nodes"
            } else {
                "the root file system cannot be covered by an overlay"
            }
            .to_owned(),
            consequence: "sandboxes can watch by inotify which files of the root file system others use, and lock them",
            remedy: "overlayfs in the kernel; a rootfs that does not lie on an overlay of an overlay",
            required: false,
        },
        Finding {
            feature: "ids of their own",
            found: overlap.is_none(),
            detail: overlap.unwrap_or_else(|| "in no range of /etc/subuid or /etc/subgid".to_owned()),
            consequence: "containers of others may have the ids of sandboxes",
            remedy: "set id_base, before the first start, to where no such range begins",
            required: false,
        },
    ]
}

/// Whether files of the root file system can be shown with a sandbox's ids, and how.
fn root_files(serves: Serves, is_mappable: bool) -> (bool, String) {
    const MIB: u64 = 1 << 20;
    match serves {
        Serves::Original if is_mappable => (true, "can be mapped".to_owned()),
        Serves::Original => (false, "cannot be mapped".to_owned()),
        Serves::Copy => (true, "by the copy in data_dir".to_owned()),
        Serves::NewCopy => (true, "by a copy in data_dir, which the next start makes".to_owned()),
        Serves::NoRoom(free) => {
            let (free, needed) = (free / MIB, rootfs::FREE_MIN / MIB);
            (
                false,
                format!(
                    "no room for a copy in data_dir that can be: {free} MiB are free, {needed} are needed"
                ),
            )
        }
    }
}

fn ids_of_probe(base: IdBase) -> Vec<userns::Extent> {
    base.range(0).map(model::IdRange::processes).unwrap_or_default()
}

/// A range that somebody else was given, which reaches into ours.
fn subordinate_overlap(base: IdBase) -> Option<String> {
    let files = ["/etc/subuid", "/etc/subgid"].map(|path| (path, std::fs::read_to_string(path)));
    files.into_iter().find_map(|(path, text)| {
        let text = text.ok()?;
        text.lines().find(|line| reaches(line, base)).map(|line| format!("{path}: {line}"))
    })
}

/// Whether a line `name:first:count` has ids from the base on.
fn reaches(line: &str, base: IdBase) -> bool {
    let mut numbers = line.split(':').skip(1).map(|n| n.trim().parse::<u64>().ok());
    let (Some(Some(first)), Some(Some(count))) = (numbers.next(), numbers.next()) else { return false };
    first.saturating_add(count) > u64::from(base.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_others_are_seen() {
        let base: IdBase = "1879048192".parse().unwrap();
        for (line, expected) in [
            ("alice:100000:65536", false),
            ("bob:1879048191:1", false),
            ("bob:1879048191:2", true),
            ("carol:2000000000:65536", true),
            ("garbage", false),
            ("", false),
        ] {
            assert_eq!(reaches(line, base), expected, "{line}");
        }
    }
}
