// How an answer gets from whatever thread made it to the connection that waits for it.
#include "server/http_connection.h"

namespace winnow::server {

Exchange::~Exchange() {
  if (source) source->Abandon();
  if (later) later->Abandon();
}

void Exchange::Signal() {
  if (auto connection = connection_.lock()) connection->Signal();
}

template <typename Task>
void Exchange::Post(const std::shared_ptr<Exchange>& self, Task task) {
  if (auto server = server_.lock()) {
    asio::post(server->io, [self, task = std::move(task)]() mutable { task(*self); });
  }
}

void Exchange::Wake(const std::shared_ptr<Exchange>& self) {
  if (gone.load()) return;
  if (waking_.exchange(true)) return;
  Post(self, [](Exchange& exchange) {
    exchange.waking_.store(false);
    exchange.Signal();
  });
}

struct Responder::Ticket {
  explicit Ticket(std::shared_ptr<Exchange> its_exchange) : exchange(std::move(its_exchange)) {}
  ~Ticket() {
    exchange->Post(exchange, [](Exchange& forgotten) { forgotten.Forget(); });
  }
  std::shared_ptr<Exchange> exchange;
};

Responder::Responder(std::shared_ptr<Exchange> exchange)
    : ticket_(std::make_shared<Ticket>(std::move(exchange))) {}

void Responder::Send(HttpResponse response) const {
  const std::shared_ptr<Exchange>& exchange = ticket_->exchange;
  exchange->Post(exchange, [response = std::move(response)](Exchange& target) mutable {
    target.Set(std::move(response));
  });
}

void Responder::Stream(HttpResponse head, std::shared_ptr<Source> source) const {
  const std::shared_ptr<Exchange>& exchange = ticket_->exchange;
  exchange->Post(exchange,
                 [head = std::move(head), source = std::move(source)](Exchange& target) mutable {
                   target.Set(std::move(head), std::move(source));
                 });
}

void Responder::Wait(std::shared_ptr<Later> later) const {
  const std::shared_ptr<Exchange>& exchange = ticket_->exchange;
  exchange->Post(exchange, [later = std::move(later)](Exchange& target) mutable {
    target.Set(std::move(later));
  });
}

std::function<void(std::function<void()>)> Responder::Poster() const {
  return [server = ticket_->exchange->server()](std::function<void()> task) {
    if (auto state = server.lock()) asio::post(state->io, std::move(task));
  };
}

bool Responder::gone() const { return ticket_->exchange->gone.load(); }

std::function<void()> Responder::Waker() const {
  return [exchange = ticket_->exchange] { exchange->Wake(exchange); };
}

}  // namespace winnow::server
