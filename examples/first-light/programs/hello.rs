//! The program of the image `localhost/first-light/hello`: `hello serve PORT` answers requests, `hello ask HOST:PORT` asks every few
//! seconds and prints what comes back.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port),
        ["ask", host] => ask(host),
        _ => Err(std::io::Error::other("try `hello serve PORT` or `hello ask HOST:PORT`")),
    }
}

fn serve(port: &str) -> std::io::Result<()> {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening on port {port}");
    for stream in listener.incoming() {
        // A client that has left is nobody's loss.
        let _ = stream.and_then(|stream| answer(stream, &host));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, host: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let _ = stream.read(&mut [0; 4096])?;
    let body = format!("hello from {host}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}

fn ask(host: &str) -> std::io::Result<()> {
    loop {
        match get(host) {
            Ok(body) => println!("{}", body.trim_end()),
            Err(error) => println!("{host}: {error}"),
        }
        std::thread::sleep(Duration::from_secs(5));
    }
}

fn get(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
