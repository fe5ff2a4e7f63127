//! Every test that crosses a crate boundary, in one program: one link instead of many. One module a subject.

#[cfg(test)]
mod attack;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod connector;
#[cfg(test)]
mod custody;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod edge;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hot_swap;
#[cfg(test)]
mod real;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod upstream_trust;
