// What server.cc needs of /v1/files and /v1/batches.
#pragma once

#include <memory>

#include "server/batch_queue.h"
#include "server/service.h"

namespace winnow::server {

// The batches are started when the engine is loaded and stopped before it goes. Without a folder
// for files the routes say so, and there is no queue (null). Errors are those of BatchStore::Open.
Result<std::shared_ptr<BatchQueue>> AddBatchRoutes(Router& router, Service& service);

}  // namespace winnow::server
