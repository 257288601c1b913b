//! stub
use anyhow::Result;
/// stub
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {}
/// stub
pub fn main(_: &Arguments) -> Result<u8> {
    Ok(0)
}
