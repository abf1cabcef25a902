//! One set of scenarios on two kinds of stacks: native processes, and containers with networks of their own; and what
//! only containers can be put through.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test, helpers included"
)]

mod containers;
mod native;
mod networks;
mod scenarios;
mod scene;

/// Each scenario as a test of either kind.
macro_rules! on_both {
    ($($scenario:ident,)*) => {
        mod on_processes {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    crate::scenarios::$scenario(&crate::native::Native::start().await).await;
                }
            )*
        }

        mod in_containers {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    let plan = crate::containers::Plan { etcds: 1, balancers: 1 };
                    if let Some(scene) = crate::containers::Containers::start(plan).await {
                        crate::scenarios::$scenario(&scene).await;
                    }
                }
            )*
        }
    };
}

on_both! {
    instances_join_and_leave_without_a_failed_request,
    a_service_grows_to_twenty_and_shrinks_to_three,
    an_instance_that_is_killed_is_replaced_under_its_name,
    every_instance_is_replaced_one_after_the_other,
    an_instance_that_hangs_is_passed_over_and_returns,
    an_etcd_that_hangs_is_no_news,
    an_lb_sync_that_hangs_catches_up,
}
