//! The tests, by subject.

mod answers;
mod apps;
mod browser;
mod cli;
mod clocks;
mod cores;
mod counted;
mod crash;
mod disks;
mod dns;
mod escapes;
mod events;
mod faults;
mod files;
mod gvisor;
mod hostile;
mod hostile_apps;
mod hostile_clients;
mod hosts;
mod idle;
mod inodes;
mod inside;
mod isolation;
mod lifecycle;
mod limits;
mod memory;
mod neighbours;
mod nested;
mod network;
mod pool;
mod power;
mod previews;
mod privileges;
mod probe;
mod processes;
mod reclaim;
mod recovery;
mod removals;
mod revive;
mod rings;
mod signals;
mod sleep;
mod streams;
mod terminal;
mod threads;
mod tools;
mod uncounted;
mod userns;
mod waits;

/// A test and its name.
pub(crate) type Test = (&'static str, fn());

/// All tests, the quick ones first.
pub(crate) fn all() -> Vec<Test> {
    [
        lifecycle::TESTS,
        files::TESTS,
        files::EDIT,
        files::ARCHIVE,
        answers::TESTS,
        threads::TESTS,
        apps::TESTS,
        browser::TESTS,
        isolation::TESTS,
        userns::TESTS,
        inodes::TESTS,
        inside::TESTS,
        nested::TESTS,
        cores::TESTS,
        counted::TESTS,
        uncounted::TESTS,
        limits::TESTS,
        neighbours::TESTS,
        probe::TESTS,
        escapes::TESTS,
        network::TESTS,
        dns::TESTS,
        previews::TESTS,
        hostile_apps::TESTS,
        hostile_clients::TESTS,
        sleep::TESTS,
        streams::TESTS,
        reclaim::SLEEPERS,
        events::TESTS,
        pool::TESTS,
        processes::TESTS,
        terminal::TESTS,
        idle::TESTS,
        &cli::tests(),
        faults::TESTS,
        disks::TESTS,
        removals::TESTS,
        rings::TESTS,
        clocks::TESTS,
        gvisor::TESTS,
        privileges::TESTS,
        hosts::TESTS,
        signals::TESTS,
        revive::TESTS,
        waits::TESTS,
        recovery::TESTS,
        crash::TESTS,
        hostile::TESTS,
    ]
    .concat()
}

/// Tests of what only cgroup version 2 can do; elsewhere they are shown as ignored.
pub(crate) fn of_cgroup_v2() -> Vec<Test> {
    [memory::TESTS, reclaim::TESTS].concat()
}

/// Tests that change settings of the whole machine; elsewhere they are shown as ignored.
pub(crate) fn of_a_machine() -> Vec<Test> {
    [hosts::MACHINE, limits::MACHINE].concat()
}

/// Tests that need device-mapper's flakey target; elsewhere they are shown as ignored.
pub(crate) fn of_dm_flakey() -> Vec<Test> {
    power::TESTS.to_vec()
}

/// Tests of programs that `scripts/build-tools` fetches; elsewhere they are shown as ignored.
pub(crate) fn of_tools() -> Vec<Test> {
    tools::TESTS.to_vec()
}
