//! What can go wrong with the network of sandboxes.

use std::io;

/// Why a sandbox has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "use the network pool {pool}: the host has a route to {taken} already; choose another by SANDBOXD_NETWORK_POOL"
    )]
    Overlap { pool: String, taken: String },
    #[error("use the link {link}: it is of {owner}; give this server another name by SANDBOXD_INSTANCE")]
    NotOurs { link: String, owner: String },
    #[error("{action}")]
    Kernel {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("run nft: install the package nftables")]
    NftMissing(#[source] io::Error),
    #[error("{action} the firewall's table: {message}")]
    Nft { action: &'static str, message: String },
}
