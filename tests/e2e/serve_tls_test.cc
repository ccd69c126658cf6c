// The server behind TLS, as a client with OpenSSL meets it.
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "serve.h"
#include "serve_bodies.h"

namespace winnow {
namespace {

// Writes a fresh key and a certificate of it, signed with itself, for "localhost".
void MakeCertificate(const std::string& cert_path, const std::string& key_path) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  ASSERT_NE(key, nullptr);
  X509* cert = X509_new();
  X509_set_version(cert, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
  X509_gmtime_adj(X509_getm_notBefore(cert), -60);
  X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
  X509_set_pubkey(cert, key);
  X509_NAME* name = X509_get_subject_name(cert);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(cert, name);
  ASSERT_GT(X509_sign(cert, key, EVP_sha256()), 0);
  FILE* file = fopen(cert_path.c_str(), "w");
  ASSERT_NE(file, nullptr);
  PEM_write_X509(file, cert);
  fclose(file);
  file = fopen(key_path.c_str(), "w");
  ASSERT_NE(file, nullptr);
  PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  fclose(file);
  X509_free(cert);
  EVP_PKEY_free(key);
}

// A client that trusts one certificate and speaks versions of TLS up to `newest`.
class TlsClient {
 public:
  TlsClient(int port, const std::string& cert_path, int newest = TLS1_3_VERSION) {
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_file(context_, cert_path.c_str());
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    // The oldest versions are asked for below the security level that they need.
    SSL_CTX_set_security_level(context_, 0);
    SSL_CTX_set_min_proto_version(context_, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(context_, newest);
    socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{static_cast<time_t>(kPatience), 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return;
    ssl_ = SSL_new(context_);
    SSL_set1_host(ssl_, "localhost");
    SSL_set_fd(ssl_, socket_);
    connected_ = SSL_connect(ssl_) == 1;
  }
  ~TlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    close(socket_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool connected() const { return connected_; }
  std::string version() const { return SSL_get_version(ssl_); }

  // What comes back until it holds `mark` or the connection ends.
  std::string Exchange(const std::string& request, const std::string& mark) {
    if (SSL_write(ssl_, request.data(), static_cast<int>(request.size())) <= 0) return {};
    std::string reply;
    char buffer[4096];
    while (reply.find(mark) == std::string::npos) {
      const int count = SSL_read(ssl_, buffer, sizeof(buffer));
      if (count <= 0) break;
      reply.append(buffer, static_cast<size_t>(count));
    }
    return reply;
  }

 private:
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
  int socket_ = -1;
  bool connected_ = false;
};

class ServeTls : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    MakeCertificate(Path("cert.pem"), Path("key.pem"));
    serve_ = std::make_unique<Serve>(
        std::vector<std::string>{kSmall, "--tls-cert", Path("cert.pem"), "--tls-key",
                                 Path("key.pem"), "--header-seconds", "1"});
    // A handshake that succeeds says that it listens; what it answers says that it is ready.
    ASSERT_TRUE(Serve::Eventually([this] {
      TlsClient client(serve_->port(), Path("cert.pem"));
      return client.connected() &&
             client.Exchange(kHealth, "}").find("200 OK") != std::string::npos;
    }));
  }
  void TearDown() override {
    serve_.reset();
    Cli::TearDown();
  }

  const std::string kHealth = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  std::unique_ptr<Serve> serve_;
};

TEST_F(ServeTls, AnswersAndStreamsOverBothVersions) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsClient client(serve_->port(), Path("cert.pem"), version);
    ASSERT_TRUE(client.connected());
    EXPECT_EQ(client.version(), version == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3");
    const std::string body =
        Body("\"max_tokens\":8,\"temperature\":0,\"stream\":true,\"return_token_ids\":true");
    const std::string reply =
        client.Exchange("POST " + kText + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n" + body,
                        "data: [DONE]");
    EXPECT_NE(reply.find("\"finish_reason\":\"length\""), std::string::npos) << reply;
    EXPECT_NE(reply.find("data: [DONE]"), std::string::npos);
    EXPECT_NE(client.Exchange(kHealth, "}").find("200 OK"), std::string::npos);
  }
}

TEST_F(ServeTls, RefusesOldVersionsAndClientsWithoutTls) {
  EXPECT_FALSE(TlsClient(serve_->port(), Path("cert.pem"), TLS1_1_VERSION).connected());
  // A client that speaks plainly is told nothing, and one that says nothing does not stay.
  Client plain(serve_->port());
  plain.Send(kHealth);
  EXPECT_TRUE(plain.ReadToEnd());
  EXPECT_EQ(plain.input().find("HTTP"), std::string::npos);
  EXPECT_TRUE(Client(serve_->port()).ReadToEnd());
  TlsClient client(serve_->port(), Path("cert.pem"));
  EXPECT_NE(client.Exchange(kHealth, "}").find("200 OK"), std::string::npos);
}

TEST_F(ServeTls, NamesTheFileThatIsWrong) {
  const std::string other = Write("other.pem", "no certificate");
  const Ended cert =
      Winnow("serve " + kSmall + " --port 0 --tls-cert " + other + " --tls-key " + Path("key.pem"));
  EXPECT_EQ(cert.code, 2);
  EXPECT_NE(cert.err.find(other), std::string::npos) << cert.err;
  MakeCertificate(Path("cert2.pem"), Path("key2.pem"));
  const Ended key = Winnow("serve " + kSmall + " --port 0 --tls-cert " + Path("cert.pem") +
                           " --tls-key " + Path("key2.pem"));
  EXPECT_EQ(key.code, 2);
  EXPECT_NE(key.err.find("key2.pem"), std::string::npos) << key.err;
}

}  // namespace
}  // namespace winnow
