//! Which call is answered by what.

use super::answer::{no_such_method, no_such_path};
use super::{
    Shared, claims, definitions, events, failures, flaky, guard, instances, login, metrics,
    openapi, records, runs, settings, slow, timeline, views,
};
use crate::scheduler::model::{Environment, TestCase};
use crate::scheduler::page;
use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, get, on};

/// Where collectors of metrics ask.
pub(super) const METRICS: &str = "/metrics";

/// A router that remembers what was put into it.
pub(super) struct Routes {
    router: Router<Shared>,
    pub(super) known: Vec<(Method, &'static str)>,
}

impl Routes {
    fn add<H: Handler<T, Shared>, T: 'static>(
        mut self,
        method: Method,
        path: &'static str,
        handler: H,
    ) -> Self {
        // All methods that are used here have a filter.
        if let Ok(filter) = MethodFilter::try_from(method.clone()) {
            self.router = self.router.route(path, on(filter, handler));
            self.known.push((method, path));
        }
        self
    }

    fn get<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(Method::GET, path, handler)
    }

    fn post<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(Method::POST, path, handler)
    }

    fn put<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(Method::PUT, path, handler)
    }

    fn patch<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(Method::PATCH, path, handler)
    }

    fn delete<H: Handler<T, Shared>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add(Method::DELETE, path, handler)
    }
}

/// All calls under `/v1/`.
pub(super) fn calls() -> Routes {
    let routes = Routes { router: Router::new(), known: Vec::new() };
    let routes = routes
        .get("/v1/testcases", definitions::list_cases)
        .post("/v1/testcases", definitions::create::<TestCase>)
        .get("/v1/testcases/{id}", definitions::get::<TestCase>)
        .put("/v1/testcases/{id}", definitions::put::<TestCase>)
        .patch("/v1/testcases/{id}", definitions::patch::<TestCase>)
        .delete("/v1/testcases/{id}", definitions::delete::<TestCase>)
        .get("/v1/testcases/{id}/history", definitions::history)
        .get("/v1/flaky", flaky::list)
        .get("/v1/slowest", slow::list)
        .get("/v1/environments", definitions::list_environments)
        .post("/v1/environments", definitions::create::<Environment>)
        .get("/v1/environments/{id}", definitions::get::<Environment>)
        .put("/v1/environments/{id}", definitions::put::<Environment>)
        .patch("/v1/environments/{id}", definitions::patch::<Environment>)
        .delete("/v1/environments/{id}", definitions::delete::<Environment>)
        .get("/v1/environments/{id}/check", definitions::checked)
        .post("/v1/environments/{id}/check", definitions::check);
    let routes = routes
        .post("/v1/runs", runs::submit)
        .get("/v1/runs", runs::list)
        .get("/v1/runs/{run}", runs::get)
        .get("/v1/runs/{run}/events", events::of_run)
        .post("/v1/runs/{run}/pause", runs::pause)
        .post("/v1/runs/{run}/resume", runs::resume)
        .post("/v1/runs/{run}/cancel", runs::cancel)
        .post("/v1/runs/{run}/rerun", views::rerun)
        .get("/v1/runs/{run}/tasks", views::tasks)
        .get("/v1/runs/{run}/tasks/{lane}/{ordinal}", views::task)
        .post("/v1/runs/{run}/tasks/{lane}/{ordinal}/verdict", runs::verdict)
        .get("/v1/runs/{run}/lanes", views::lanes)
        .get("/v1/runs/{run}/waiting", views::waiting)
        .get("/v1/runs/{run}/bound", views::bound)
        .get("/v1/runs/{run}/timeline", timeline::timeline)
        .get("/v1/runs/{run}/replay", timeline::replay)
        .get("/v1/runs/{run}/audit", views::audit)
        .get("/v1/runs/{run}/failures", failures::groups)
        .get("/v1/runs/{run}/compare", failures::compare)
        .get("/v1/runs/{run}/report", failures::download);
    routes
        .post("/v1/claims", claims::claim)
        .post("/v1/claims/renew", claims::renew)
        .post("/v1/claims/results", claims::settle)
        .get("/v1/instances", instances::list)
        .post("/v1/instances", claims::register)
        .delete("/v1/instances/{name}", claims::unregister)
        .get("/v1/instances/{name}", instances::get)
        .post("/v1/instances/{name}/drain", instances::drain)
        .get("/v1/tags", settings::list_tags)
        .put("/v1/tags/{tag}", settings::put_tag)
        .delete("/v1/tags/{tag}", settings::delete_tag)
        .post("/v1/tags/{tag}/release", settings::release_tag)
        .get("/v1/queues", settings::list_queues)
        .get("/v1/queues/{queue}", settings::get_queue)
        .put("/v1/queues/{queue}", settings::put_queue)
        .delete("/v1/queues/{queue}", settings::delete_queue)
        .get("/v1/results", records::list_results)
        .get("/v1/results/{case}", records::results_of_case)
        .get("/v1/results/{case}/{environment}", records::get_result)
        .get("/v1/reports", records::list_reports)
        .get("/v1/reports/{run}", records::get_report)
        .post("/v1/login", login::log_in)
        .get("/v1/openapi.json", openapi::serve)
}

/// Everything that is served.
pub(super) fn router(shared: Shared) -> Router {
    let mut router = calls().router.route(METRICS, get(metrics::page));
    for (path, kind, bytes) in page::FILES {
        router = router.route(path, get(async move || ([("content-type", *kind)], *bytes)));
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(shared.clone(), guard::check))
        .with_state(shared)
}
