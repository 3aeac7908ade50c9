//! One suite over every source of endpoints that can be written to while a balancer reads it.
//!
//! A source is a [`Place`](place::Place), in a file of its own here: how it is begun, written to, broken and mended,
//! and what it cannot do. `conforms!` in that file has all [`rules`] run over it, and its `mod` line here is all else
//! that it needs.

/// A test of each rule, over the places of this type.
macro_rules! conforms {
    ($place:ty) => {
        conforms! { $place:
            what_is_added_is_used
            what_is_removed_is_used_no_more
            a_change_of_weight_keeps_the_connection
            a_change_of_metadata_keeps_the_connection
            what_is_as_before_is_handed_on_as_it_was
            an_empty_set_is_a_state
            an_error_keeps_the_last_good_state_and_shows
            a_source_that_comes_back_is_read_again
            a_burst_of_1000_changes_is_merged_and_its_last_one_is_visible
            the_end_keeps_the_last_state
            the_drop_of_the_balancer_ends_the_source
        }
    };
    ($place:ty: $($rule:ident)+) => {
        $(
            #[tokio::test]
            async fn $rule() {
                crate::rules::$rule::<$place>().await;
            }
        )+
    };
}

#[cfg(feature = "dns")]
#[path = "../support/knot.rs"]
pub mod knot;
mod place;
mod rules;
mod world;

mod by_discover;
#[cfg(feature = "dns")]
mod by_dns;
#[cfg(feature = "file")]
mod by_file;
mod by_handle;
mod by_stream;
