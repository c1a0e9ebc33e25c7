//! Frames of a launcher and of `sandbox-init`, in whatever pieces they arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Decoder, LaunchReply, LauncherRequest, Reply, Request};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let size = usize::from(kind >> 2).max(1);
    let mut decoder = Decoder::default();
    for piece in data.chunks(size) {
        decoder.push(piece);
        loop {
            let taken = match kind & 3 {
                0 => decoder.take::<Request>().map(|m| m.is_some()),
                1 => decoder.take::<Reply>().map(|m| m.is_some()),
                2 => decoder.take::<LauncherRequest>().map(|m| m.is_some()),
                _ => decoder.take::<LaunchReply>().map(|m| m.is_some()),
            };
            match taken {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return,
            }
        }
    }
});
